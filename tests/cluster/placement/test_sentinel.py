import contextlib
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cluster.placement.sentinel import announced

PARENT = """
import os, signal, sys, time
from cluster.placement.sentinel import announced
with announced("the cluster has ended", sys.argv[2:]):
    print("ready", flush=True)
    if sys.argv[1] == "dies":
        time.sleep(60)
"""
ROOT = Path(__file__).parents[3]


def parent(how: str, address: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, how, address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_who_is_killed_with_the_cluster_leaves_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as cluster:
        process = parent("dies", f"127.0.0.1:{cluster.getsockname()[1]}")
    process.kill()
    assert process.communicate(timeout=120)[1].splitlines() == ["caravan: the cluster has ended"]


def test_a_cluster_that_ends_after_the_command_is_noticed_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as cluster:
        process = parent("dies", f"127.0.0.1:{cluster.getsockname()[1]}")
        process.kill()
        time.sleep(1)
    assert process.communicate(timeout=120)[1].splitlines() == ["caravan: the cluster has ended"]


@pytest.mark.parametrize("how", ["is done", "dies"])
def test_who_ends_while_the_cluster_is_there_is_left_alone(how: str) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as cluster:
        process = parent(how, f"127.0.0.1:{cluster.getsockname()[1]}")
        if how == "dies":
            process.kill()
        assert process.communicate(timeout=60)[1] == ""


def test_nobody_is_left_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as cluster, announced("no", [f"127.0.0.1:{cluster.getsockname()[1]}"]):
        pass
    left = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has ended
            left.append(child.cmdline())
    assert not any("cluster.placement.sentinel" in words for words in left)

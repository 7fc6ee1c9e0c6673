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


def test_a_command_that_is_killed_with_the_cluster_prints_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as cluster:
        process = parent("dies", f"127.0.0.1:{cluster.getsockname()[1]}")
    process.kill()
    assert process.communicate(timeout=120)[1].splitlines() == ["caravan: the cluster has ended"]


def test_a_cluster_that_ends_after_the_command_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as cluster:
        process = parent("dies", f"127.0.0.1:{cluster.getsockname()[1]}")
        process.kill()
        time.sleep(1)
    assert process.communicate(timeout=120)[1].splitlines() == ["caravan: the cluster has ended"]


@pytest.mark.parametrize("how", ["is done", "dies"])
def test_a_command_that_ends_before_the_cluster_prints_nothing(how: str) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as cluster:
        process = parent(how, f"127.0.0.1:{cluster.getsockname()[1]}")
        if how == "dies":
            process.kill()
        assert process.communicate(timeout=60)[1] == ""


def test_the_sentinel_process_ends_with_the_block() -> None:
    with socket.create_server(("127.0.0.1", 0)) as cluster, announced("no", [f"127.0.0.1:{cluster.getsockname()[1]}"]):
        pass
    alive = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has ended
            alive.append(child.cmdline())
    assert not any("cluster.placement.sentinel" in words for words in alive)

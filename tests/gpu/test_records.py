"""The report of the GPU acceptance suite: every check, failed, broken or waiting, is a row, and decides the exit status."""

import json
import subprocess
import sys
from pathlib import Path

from tests.gpu.records import ROOT

CHECKS = """
import pytest

@pytest.mark.gpu("right", "< 2")
def test_right(report):
    report("1", passed=True)

@pytest.mark.gpu("wrong", "< 2")
def test_wrong(report):
    report("3 | not 1", passed=False)

@pytest.mark.gpu("broken", "< 2")
def test_broken(report):
    raise RuntimeError("no kernel image")

@pytest.mark.gpu("broken set-up", "< 2")
def test_without_fixture(missing_fixture, report):
    report("1", passed=True)

@pytest.mark.gpu("several", "< 2")
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.needs_gpus(1000)
def test_waits(report, number):
    report(str(number), passed=True)
"""
INI = "[pytest]\nmarkers =\n    gpu(check, criterion)\n    needs_gpus(number)\n"


def test_every_check_is_a_row_and_a_failed_one_fails_the_suite(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(INI)
    (tmp_path / "conftest.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom tests.gpu.conftest import *\n"
    )
    (tmp_path / "test_checks.py").write_text(CHECKS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--gpu-report", "found"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    rows = {row["check"]: (row["measured"], row["result"]) for row in found["checks"]}
    assert rows.pop("broken set-up")[1] == "FAIL"
    assert rows == {
        "right": ("1", "CPU stand-in" if found["machine"]["GPUs"].startswith("none") else "PASS"),
        "wrong": ("3 | not 1", "FAIL"),
        "broken": ("RuntimeError: no kernel image", "FAIL"),
        "several, 1": ("waits for 1000 GPUs in one machine", "not run"),
        "several, 2": ("waits for 1000 GPUs in one machine", "not run"),
    }
    table = (tmp_path / "found.md").read_text()
    assert "| wrong | < 2 | 3 \\| not 1 | FAIL |" in table
    assert table in done.stdout

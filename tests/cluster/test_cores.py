import os
from pathlib import Path

import pytest

from cluster.cores import usable_cores


def test_usable_cores_are_those_that_the_process_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert 1 <= usable_cores() <= len(allowed)


def test_a_containers_quota_is_rounded_down_to_whole_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert usable_cores(tmp_path) == 8
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    for quota, cores in (("-1", 8), ("250000", 2), ("50000", 1), ("odd", 8)):
        (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
        assert usable_cores(tmp_path) == cores
    for text, cores in (("max 100000", 8), ("350000 100000", 3), ("1000 100000", 1), ("9000000 100000", 8), ("odd", 8)):
        (tmp_path / "cpu.max").write_text(f"{text}\n")
        assert usable_cores(tmp_path) == cores

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from grader.grade import Grader
from grader.settings import GraderSettings

# Short limits keep the tests quick; the programs here need milliseconds.
QUICK = GraderSettings(min_code_lines=0, assert_cpu_seconds=0.1, run_cpu_seconds=0.6, compile_cpu_seconds=2.0)


@pytest.fixture(scope="session")
def grader() -> Iterator[Grader]:
    with Grader(QUICK) as shared:
        yield shared


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the unprivileged user can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="caravan-test-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)

"""Fixtures and the report of the GPU acceptance suite (``make test-gpu``); see docs/gpu.md."""

import gc
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.gpu.random_models import QWEN_1_5B, SMALL, make_qwen
from tests.gpu.records import Records, Result, Row, describe_machine
from tests.gpu.samplers import engines, make_sampler  # noqa: F401 - fixtures
from tests.learner.conftest import make_learner, model_folder  # noqa: F401 - fixtures
from tests.rollout.conftest import local_ray, run  # noqa: F401 - fixtures

ORDER = ("preflight", "learner", "learner_speed", "sampler", "sampler_speed", "together", "network", "several_gpus")
RECORDS = pytest.StashKey[Records]()
ROW = pytest.StashKey[Row]()


class Report(Protocol):
    """Records what a check has measured, and fails the test when it does not meet its criterion."""

    def __call__(self, measured: str, *, passed: bool) -> None: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--network", action="store_true", help="run also the checks that load models or packages from the network"
    )
    parser.addoption(
        "--gpu-report", metavar="FILE", help="write the table of the GPU acceptance suite to FILE.md and FILE.json"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RECORDS] = Records()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of the suite in order, so that a broken installation shows first; other tests stay where they are."""
    rank = {f"test_{name}": position for position, name in enumerate(ORDER)}
    positions = [position for position, item in enumerate(items) if item.path.parent == Path(__file__).parent]
    ordered = sorted((items[position] for position in positions), key=lambda item: rank.get(item.path.stem, len(rank)))
    for position, item in zip(positions, ordered, strict=True):
        items[position] = item


@pytest.fixture(scope="session")
def num_gpus() -> int:
    """Number of GPUs that torch sees; 0 with the CPU packages."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@pytest.fixture(scope="session")
def device(num_gpus: int) -> str:
    """``cuda``, or ``cpu`` for the stand-ins."""
    return "cuda" if num_gpus else "cpu"


@pytest.fixture(scope="session")
def gpus(num_gpus: int) -> float:
    """Share of a GPU for a part that has one to itself; 0 on the CPU."""
    return 1.0 if num_gpus else 0.0


@pytest.fixture(scope="session")
def shaped_model(device: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model with random weights: in the shape of Qwen2.5 1.5B on a GPU, of 9 million parameters on the CPU."""
    return make_qwen(tmp_path_factory.mktemp("shaped"), QWEN_1_5B if device == "cuda" else SMALL, device)


@pytest.fixture(scope="module", autouse=True)
def give_memory_back(device: str) -> Iterator[None]:
    """After each file, give the GPU's memory that torch keeps in this process to the processes of the next one."""
    yield
    if device == "cuda":
        import torch

        gc.collect()
        torch.cuda.empty_cache()


@pytest.fixture(autouse=True)
def skip_checks_that_cannot_run(request: pytest.FixtureRequest, num_gpus: int) -> None:
    """Skip a check that has no stand-in on this machine, or that needs the network."""
    if request.node.get_closest_marker("network") and not request.config.getoption("--network"):
        pytest.skip("needs the network: make test-gpu OPTIONS=--network")
    marker = request.node.get_closest_marker("needs_gpus")
    if marker is not None and num_gpus < marker.args[0]:
        number = marker.args[0]
        pytest.skip("waits for a GPU" if number == 1 else f"waits for {number} GPUs in one machine")


@pytest.fixture
def report(request: pytest.FixtureRequest, device: str) -> Report:
    def record(measured: str, *, passed: bool) -> None:
        check, criterion = _check_of(request.node)
        result = Result.FAIL if not passed else Result.PASS if device == "cuda" else Result.STAND_IN
        request.node.stash[ROW] = Row(check=check, criterion=criterion, measured=measured, result=result)
        assert passed, f"{check}: measured {measured}; the criterion is {criterion}"

    return record


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add a row for each check, even if it breaks or does not run."""
    outcome = yield
    if item.get_closest_marker("gpu") is None or (outcome.when == "teardown" and outcome.passed):
        return outcome
    check, criterion = _check_of(item)
    row = item.stash.get(ROW, None)
    if outcome.skipped and call.excinfo is not None:
        row = Row(check=check, criterion=criterion, measured=str(call.excinfo.value), result=Result.NOT_RUN)
    elif outcome.failed and (row is None or row.result is not Result.FAIL):
        error = call.excinfo.exconly() if call.excinfo is not None else outcome.longreprtext
        row = Row(check=check, criterion=criterion, measured=error.strip().splitlines()[0], result=Result.FAIL)
    if row is not None and (outcome.when == "call" or not outcome.passed):
        item.config.stash[RECORDS].rows.append(row)
    return outcome


def _check_of(item: pytest.Item) -> tuple[str, str]:
    """Return name and criterion of a check, from its marker ``gpu``; the name ends with the test's parameters."""
    marker = item.get_closest_marker("gpu")
    if marker is None or len(marker.args) != 2:
        raise pytest.UsageError(f"{item.nodeid} has no marker gpu(check, criterion)")
    parameters = getattr(item, "callspec", None)
    return f"{marker.args[0]}, {parameters.id}" if parameters else marker.args[0], marker.args[1]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, and write it to the files that ``--gpu-report`` names."""
    records = config.stash[RECORDS]
    if not records.rows:
        return
    machine = describe_machine()
    terminalreporter.section("GPU acceptance suite")
    terminalreporter.write(records.markdown(machine))
    terminalreporter.write_line(f"\n{records.summary()}")
    if (name := config.getoption("--gpu-report", None)) is not None:
        for path, text in (
            (Path(f"{name}.md"), records.markdown(machine)),
            (Path(f"{name}.json"), records.json(machine)),
        ):
            path.write_text(text, encoding="utf-8")
            terminalreporter.write_line(f"written to {path}")

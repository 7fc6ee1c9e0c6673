"""Hooks of the whole suite: its option, the order of its files, and its exit."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tests.branches.sitecustomize
from tests.branches.sitecustomize import RUNNER_VARIABLE, RUNNERS

# For torch in the tests' own processes, which run side by side: threads that wait for each other spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TRITON = Path(sys.prefix) / "triton"  # `make test-gpu-code` installs it there; the CPU packages have none
EXIT_STATUS = pytest.StashKey[int]()
# `make test` runs files in two processes. Those that take minutes start first, so that both processes end together.
LONGEST_FIRST = (
    "test_run.py",
    "test_families.py",
    "test_real_model.py",
    "grader/test_differential.py",
    "test_run_schedule.py",
    "test_chaos.py",
    "test_machines.py",
    "test_submit_job.py",
    "test_run_full.py",
    "test_run_scaling.py",
    "test_refused_models.py",
    "rollout/test_weight_sync_modes.py",
    "cluster/models/test_sft.py",
    "learner/test_client.py",
    "rollout/test_pool.py",
    "rollout/test_engine_start.py",
    "rollout/test_rollout_preflight.py",
    "rollout/test_split.py",
    "learner/test_learner_and_sampler.py",
    "learner/test_against_trl.py",
    "learner/test_ranks.py",
    "learner/test_families.py",
    "test_dashboard_page.py",
    "rollout/test_pool_scaling.py",
    "rollout/test_faults.py",
    "rollout/test_pool_nodes.py",
    "grader/test_pool.py",
    "grader/test_pool_scaling.py",
    "grader/test_pool_nodes.py",
    "cluster/models/test_tiny.py",
    "cluster/models/test_export.py",
    "cluster/models/test_replay.py",
    "learner/test_training.py",
    "learner/test_overrides.py",
    "grader/test_soak.py",
    "grader/test_attacks.py",
    "grader/test_batch.py",
    "cluster/problems/test_audit.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--model-runner",
        choices=["v1", *RUNNERS],
        default="v1",
        help="v1: vLLM's model runner for CPUs. v2: vLLM's model runner for GPUs. v2-async: v2 with asynchronous scheduling. "
        "v2 and v2-async run all Triton kernels in Triton's interpreter (tests/branches; needs `make test-gpu-code`)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Set up this process, and the environment of those that it starts, for the chosen model runner."""
    runner = config.getoption("--model-runner")
    if runner == "v1":
        return
    if not TRITON.is_dir():
        raise pytest.UsageError(f"--model-runner {runner} needs Triton in {TRITON}: `make test-gpu-code` installs it")
    branches = str(Path(__file__).parent / "branches")
    os.environ |= {
        RUNNER_VARIABLE: runner,
        "TRITON_INTERPRET": "1",
        "VLLM_USE_V2_MODEL_RUNNER": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [branches, str(TRITON), os.environ.get("PYTHONPATH")])),
    }
    sys.path.append(str(TRITON))
    tests.branches.sitecustomize.install(runner)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files that take minutes to the front."""
    folder = Path(__file__).parent
    rank = {folder / name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[EXIT_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """Exit at once with the suite's own status: Ray's threads could crash the exiting interpreter (see cluster.cli.main.run)."""
    if "ray" in sys.modules and EXIT_STATUS in config.stash:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[EXIT_STATUS])


@pytest.fixture(scope="module")
def quick_engines() -> Iterator[None]:
    """Fork engines from a process that has imported vLLM and computed nothing; they start in a third of the time.

    Every engine sees the environment of the first engine: not for tests that depend on the environment.
    """
    import multiprocessing

    import vllm.v1.engine.utils

    import rollout.engine

    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["vllm.v1.engine.core", "vllm.v1.worker.cpu_worker"])
    with pytest.MonkeyPatch.context() as patch:
        # On the CPU vLLM spawns its engine, whatever start method is configured.
        patch.setattr(vllm.v1.engine.utils, "get_mp_context", lambda: server)
        patch.setattr(rollout.engine, "SHUTDOWN_SECONDS", 1.0)
        yield

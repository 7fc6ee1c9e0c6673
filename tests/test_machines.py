"""A run on machines that share only a network: one machine fails, one joins, and the driver is killed."""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.dataset
import pytest

from tests.machines import Machine, Network, missing_requirement, network
from tests.test_chaos import title

ROOT = Path(__file__).parent.parent
CARAVAN = str(Path(sys.executable).parent / "caravan")
NUM_STEPS = 6
GROUPS_PER_STEP = 4
GROUP_SIZE = 4
SETTINGS = {
    "run.folder": "/tmp/runs",  # of the driver's machine; the others have another /tmp
    "run.name": "shared-nothing",
    "groups_per_step": GROUPS_PER_STEP,
    "group_size": GROUP_SIZE,
    "max_steps": NUM_STEPS,
    "max_completion_tokens": 48,
    "save_every_steps": 2,
    "evaluation.num_problems": 0,
    "drop_unpassable": "false",
    "num_samplers": 1,
    "num_graders": 2,
    "cpus_per_sampler": 1,
    "learner.cpus": 1,
    "cpus_per_grader": 1,
}

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(missing_requirement() is not None, reason=str(missing_requirement())),
]


class Driver:
    """``caravan train`` on a machine."""

    def __init__(self, machine: Machine) -> None:
        settings = (f"{key}={value}" for key, value in SETTINGS.items())
        train = (CARAVAN, "train", "-c", str(ROOT / "configs/demo.yaml"), *settings)
        self.command = machine.command(*train, RAY_ADDRESS=f"{machine.address}:6379", HF_HUB_OFFLINE="1")
        self.folder = machine.folder / "runs" / str(SETTINGS["run.name"])
        self.process: subprocess.Popen[str]

    def start(self) -> None:
        """Start or resume the run."""
        self.process = subprocess.Popen(self.command, stderr=subprocess.PIPE, text=True, cwd=ROOT)

    def rows(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_step(self, step: int, *, seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while len(self.rows("metrics.jsonl")) < step:
            assert self.process.poll() is None, f"the run ended early: {self.process.communicate()[1]}"
            assert time.monotonic() < deadline, f"step {step} was not done within {seconds:g} s"
            time.sleep(0.1)

    def kill(self) -> None:
        """kill -9."""
        for process in [*psutil.Process(self.process.pid).children(recursive=True), self.process]:
            process.kill()
        self.process.communicate()


@pytest.fixture
def machine_network(tmp_path: Path) -> Iterator[Network]:
    with network(tmp_path) as created:
        yield created


def join(machine_network: Network, head: Machine) -> Machine:
    """Start a machine with two CPUs that joins the cluster of ``head``."""
    return machine_network.start_node(f"--address={head.address}:6379", "--num-cpus=2")


def runs_part(machine: Machine, part: str) -> bool:
    return any(part in title(process) for process in machine.processes())


def test_a_run_continues_after_the_learners_machine_fails_another_joins_and_the_driver_is_killed(
    machine_network: Network,
) -> None:
    head = machine_network.start_node("--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false")
    machines = [join(machine_network, head) for _ in range(3)]
    driver = Driver(head)
    driver.start()
    try:
        driver.wait_for_step(3)
        (victim,) = [machine for machine in machines if runs_part(machine, "ray::LearnerActor")]
        victim.turn_off()
        driver.wait_for_step(4)
        driver.kill()
        assert len(driver.rows("metrics.jsonl")) < NUM_STEPS

        join(machine_network, head)
        driver.start()
        _, log = driver.process.communicate(timeout=240)
        assert driver.process.returncode == 0, log
        assert "resuming from the checkpoint of step" in log
    finally:
        driver.process.kill()

    assert [row["step"] for row in driver.rows("metrics.jsonl")] == list(range(1, NUM_STEPS + 1))
    rows = pyarrow.dataset.dataset(driver.folder / "rollouts", format="parquet").to_table().to_pylist()
    trained = Counter(row["completion_id"] for row in rows if row["fate"] == "trained")
    assert len(trained) == NUM_STEPS * GROUPS_PER_STEP * GROUP_SIZE
    assert set(trained.values()) == {1}
    # Only the driver's machine has files of the run: the checkpoints were sent to it.
    assert not any((machine.folder / "runs").exists() for machine in machines)
    replayed = subprocess.run(
        [CARAVAN, "replay", str(driver.folder)], capture_output=True, text=True, timeout=240, cwd=ROOT, check=False
    )
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr


def test_each_machine_of_a_cluster_is_checked(machine_network: Network) -> None:
    head = machine_network.start_node("--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false")
    others = [join(machine_network, head) for _ in range(2)]
    shutil.copytree(ROOT / "assets/tiny", head.folder / "model")
    shutil.copytree(ROOT / "assets/tiny", others[0].folder / "model")

    def check(*settings: str) -> subprocess.CompletedProcess[str]:
        words = (
            CARAVAN,
            "check",
            "--no-smoke",
            "-c",
            str(ROOT / "configs/demo.yaml"),
            "run.folder=/tmp/runs",
            "group_size=4",
            *settings,
        )
        command = head.command(*words, RAY_ADDRESS=f"{head.address}:6379", HF_HUB_OFFLINE="1", COLUMNS="200")
        return subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=ROOT, check=False)

    lacking = check("model.path=/tmp/model")
    assert lacking.returncode == 1, lacking.stdout + lacking.stderr
    (line,) = [line for line in lacking.stdout.splitlines() if line.startswith("FAIL")]
    assert f"{others[1].address} " in line and others[0].address not in line
    assert "model: model.path=/tmp/model: there is no such folder" in line

    complete = check()
    assert complete.returncode == 0, complete.stdout + complete.stderr
    assert all(machine.address in complete.stdout for machine in others)

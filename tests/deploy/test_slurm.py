"""``deploy/slurm.sbatch`` with doubles of Slurm's commands. Slurm itself does not run here.

``srun`` runs its command on this machine, so that each node of a job is a separate Ray node here.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy/slurm.sbatch"
REAL_BIN = Path(sys.executable).parent
DEADLINE_SECONDS = 120

SRUN = """#!/usr/bin/env bash
echo "$*" >>"$SLURM_SUBMIT_DIR/srun.log"
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = '#!/usr/bin/env bash\nprintf "%s\\n" "$3" | tr , "\\n"\n'
QUICK_RAY = """#!/usr/bin/env bash
mkdir -p "$RAY_TMPDIR/ray"
[[ $* != *--head* ]] || echo 10.0.0.1:6379 >"$RAY_TMPDIR/ray/ray_current_cluster"
exec sleep 1000
"""
QUICK_PYTHON = "#!/usr/bin/env bash\necho token\ncat >/dev/null\n"
# The driver prints its arguments; with "stay" it waits for SIGTERM and ends as a run does after its checkpoint.
QUICK_CARAVAN = """#!/usr/bin/env bash
trap 'echo checkpoint; exit 130' TERM
echo "driver: $* RAY_ADDRESS=$RAY_ADDRESS mode=$RAY_AUTH_MODE"
[[ $* == *stay* ]] || exit 7
for _ in $(seq 1000); do sleep 0.1; done
"""
RAY_CARAVAN = """
import json, os, signal, sys, time
import ray

ray.init(log_to_driver=False)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
nodes = [node for node in ray.nodes() if node["Alive"]]
print("driver:", json.dumps({"nodes": len(nodes), "cpus": ray.cluster_resources()["CPU"]}), flush=True)
time.sleep(1000)
"""


@dataclass(frozen=True)
class Submission:
    """A folder of Caravan with doubles, and the environment of a job in it."""

    folder: Path
    environment: dict[str, str]
    temporary: Path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        with (self.folder / "job.log").open("w") as log:
            return subprocess.Popen(
                ["bash", str(SCRIPT), *arguments],
                env=self.environment,
                cwd="/",
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )

    @property
    def log(self) -> str:
        return (self.folder / "job.log").read_text()

    @property
    def steps(self) -> list[str]:
        """Arguments of each ``srun``."""
        return (self.folder / "srun.log").read_text().splitlines()

    def wait_for(self, text: str, job: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while text not in self.log:
            assert job.poll() is None and time.monotonic() < deadline, self.log
            time.sleep(0.05)

    def processes(self) -> list[psutil.Process]:
        """Processes of the job that are alive."""
        mark = f"SLURM_JOB_ID={self.environment['SLURM_JOB_ID']}\0"
        found = []
        for process in psutil.process_iter():
            try:
                environment = Path(f"/proc/{process.pid}/environ").read_text(errors="replace")
            except OSError:
                continue
            if mark in environment and process.pid != os.getpid():
                found.append(process)
        return found


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def submission(tmp_path: Path) -> Iterator[Submission]:
    for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
        write_program(tmp_path / "slurm" / name, text)
    for name, text in {"ray": QUICK_RAY, "python": QUICK_PYTHON, "caravan": QUICK_CARAVAN}.items():
        write_program(tmp_path / ".venv/bin" / name, text)
    job = str(os.getpid())
    environment = {
        "PATH": f"{tmp_path / 'slurm'}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "SLURM_JOB_ID": job,
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NODELIST": "gpu7,gpu8",
        "SLURM_CPUS_ON_NODE": "1",
        "RAY_ADDRESS": "another-cluster:6379",
    }
    submission = Submission(folder=tmp_path, environment=environment, temporary=Path(f"/tmp/caravan-{job}"))
    yield submission
    for process in submission.processes():
        process.kill()
    shutil.rmtree(submission.temporary, ignore_errors=True)


def test_the_script_is_valid_bash_and_requests_the_options_it_uses() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", SCRIPT.read_text(), re.MULTILINE))
    assert options["ntasks-per-node"] == "1"
    assert "no-kill" in options and "requeue" in options
    sent = re.fullmatch(r"B:TERM@(\d+)", options["signal"])
    assert sent
    ours = (ROOT / "ray_job.yaml").read_text()
    assert f'RAY_JOB_STOP_WAIT_TIME_S: "{sent[1]}"' in ours, "a job of Ray has the same time for its checkpoint"
    # sbatch reads options only before the first command.
    assert SCRIPT.read_text().index("#SBATCH --requeue") < SCRIPT.read_text().index("set -euo")


def test_ray_starts_on_every_node_and_the_driver_on_the_first(submission: Submission) -> None:
    job = submission.start("-c", "configs/cluster.yaml", "temperature=1.1")
    assert job.wait(DEADLINE_SECONDS) == 7, submission.log  # the driver's status
    head, workers = submission.steps
    for step, names in ((head, "gpu7"), (workers, "gpu8")):
        assert f"--nodelist={names} --nodes=1 --ntasks=1 --cpus-per-task=1 ray start --block --num-cpus=1" in step
        assert "--overlap" in step and "--kill-on-bad-exit=0" in step
    assert "--head --port=" in head
    assert workers.endswith("--address=10.0.0.1:6379")
    expected = "driver: train -c configs/cluster.yaml temperature=1.1 RAY_ADDRESS=10.0.0.1:6379 mode=token\n"
    assert expected in submission.log
    assert "token" not in "".join(submission.steps), "every user of a node sees the arguments of its processes"
    assert not submission.processes()


@pytest.mark.parametrize(
    ("nodes", "gpus_per_node", "arguments", "expected"),
    [
        ("gpu1,gpu2,gpu3", "8", [], ["num_samplers=15", "num_ranks=9"]),
        ("gpu1", "8", [], ["num_samplers=5", "num_ranks=3"]),  # as configs/cluster.yaml
        ("gpu1", "2", [], ["num_samplers=1", "num_ranks=1"]),
        ("gpu1", "8", ["learner.num_ranks=2"], ["learner.num_ranks=2"]),
        ("gpu1", "1", [], []),  # learner and sampler share it
        ("gpu1,gpu2", "8", ["rollout.num_samplers=12"], ["rollout.num_samplers=12"]),
    ],
)
def test_each_gpu_has_a_sampler_or_a_rank_of_the_learner(
    nodes: str, gpus_per_node: str, arguments: list[str], expected: list[str], submission: Submission
) -> None:
    submission.environment.update(SLURM_JOB_NODELIST=nodes, SLURM_GPUS_ON_NODE=gpus_per_node)
    job = submission.start("-c", "a.yaml", *arguments)
    assert job.wait(DEADLINE_SECONDS) == 7, submission.log
    assert " ".join(["driver: train -c a.yaml", *expected, "RAY_ADDRESS"]) in submission.log
    assert len(submission.steps) == min(2, nodes.count(",") + 1)


def test_the_signal_before_the_time_limit_lets_the_driver_save_and_ends_everything(submission: Submission) -> None:
    job = submission.start("-c", "a.yaml", "stay=true")
    submission.wait_for("driver:", job)
    job.send_signal(signal.SIGTERM)
    assert job.wait(DEADLINE_SECONDS) == 130
    assert "checkpoint" in submission.log
    assert not submission.processes()


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({"SLURM_JOB_ID": ""}, ["-c", "a.yaml"], "submit this script with sbatch"),
        ({"SLURM_SUBMIT_DIR": "/"}, ["-c", "a.yaml"], "run sbatch in Caravan's folder"),
        ({}, [], "needs the arguments of caravan train"),
    ],
)
def test_a_job_that_cannot_start_ends_with_one_line(
    change: dict[str, str], arguments: list[str], message: str, submission: Submission
) -> None:
    submission.environment.update(change)
    assert submission.start(*arguments).wait(DEADLINE_SECONDS) == 1
    (line,) = submission.log.splitlines()
    assert message in line


def test_a_head_that_does_not_start_ends_the_job(submission: Submission) -> None:
    write_program(submission.folder / ".venv/bin/ray", "#!/usr/bin/env bash\nexit 3\n")
    assert submission.start("-c", "a.yaml").wait(DEADLINE_SECONDS) == 1
    assert "Ray did not start on gpu7" in submission.log
    assert "driver:" not in submission.log


@pytest.mark.long
@pytest.mark.slow
def test_two_nodes_become_one_ray_cluster_with_the_jobs_token(submission: Submission) -> None:
    for name in ("ray", "python"):
        write_program(submission.folder / ".venv/bin" / name, f'#!/usr/bin/env bash\nexec {REAL_BIN / name} "$@"\n')
    (submission.folder / "driver.py").write_text(RAY_CARAVAN)
    driver = f"exec {REAL_BIN / 'python'} {submission.folder / 'driver.py'}"
    write_program(submission.folder / ".venv/bin/caravan", f"#!/usr/bin/env bash\n{driver}\n")
    job = submission.start("-c", "a.yaml")
    submission.wait_for("driver:", job)
    (line,) = [line for line in submission.log.splitlines() if line.startswith("driver:")]
    assert json.loads(line.removeprefix("driver:")) == {"nodes": 2, "cpus": 2.0}
    assert not (submission.folder / ".ray/auth_token").exists()
    job.send_signal(signal.SIGTERM)
    assert job.wait(DEADLINE_SECONDS) == 130
    deadline = time.monotonic() + 30
    while submission.processes() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not [process.cmdline() for process in submission.processes()]

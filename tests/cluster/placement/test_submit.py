import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ray.job_submission import JobStatus

from cluster.cli.main import main
from cluster.config.load import load_config
from cluster.console import View
from cluster.errors import ConfigError, ResourcesError
from cluster.placement.submit import sft_job
from cluster.placement.submit.client import connect, exit_code, follow
from cluster.placement.submit.command import check, runtime_environment, uploaded_path
from cluster.placement.submit.persistent import JOB_VARIABLE, is_job, require_persistent
from cluster.placement.submit.sft_job import reserved

ROOT = Path(__file__).parents[3]
IN_A_JOB = {JOB_VARIABLE: "{}"}
HANGS = "hangs"


def test_a_run_folder_that_is_deleted_with_the_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.folder=runs is in the job's working directory"):
        require_persistent(Path("runs"))
    with pytest.raises(ConfigError, match="outlives the job"):
        require_persistent(tmp_path / "session/runs", temporary=tmp_path / "session")
    require_persistent(tmp_path / "runs", temporary=tmp_path / "session")
    assert is_job(IN_A_JOB)
    assert not is_job({})


def test_the_cluster_configuration_has_a_persistent_run_folder() -> None:
    require_persistent(load_config(ROOT / "configs/cluster.yaml", environment={}).run.folder)


def test_only_an_uploaded_file_can_be_submitted(tmp_path: Path) -> None:
    (tmp_path / "here/configs").mkdir(parents=True)
    inside, outside = tmp_path / "here/configs/a.yaml", tmp_path / "b.yaml"
    assert uploaded_path(inside, tmp_path / "here") == Path("configs/a.yaml")
    with pytest.raises(ConfigError, match="only the content of"):
        uploaded_path(outside, tmp_path / "here")


def test_settings_in_the_environment_are_uploaded_and_secrets_are_not() -> None:
    environment = {"GRPO_TEMPERATURE": "1.2", "HF_TOKEN": "hf_secret", "WANDB_API_KEY": "secret", "HOME": "/home/me"}
    runtime_env = runtime_environment(ROOT, environment)
    plain = yaml.safe_load((ROOT / "ray_job.yaml").read_text())
    assert runtime_env == {
        **plain,
        "env_vars": {**plain["env_vars"], "GRPO_TEMPERATURE": "1.2"},
        "working_dir": str(ROOT),
    }


def test_a_folder_without_ray_job_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no ray_job\.yaml here"):
        runtime_environment(tmp_path, {})


def test_the_built_in_model_is_uploaded_and_unneeded_folders_are_not() -> None:
    excluded = yaml.safe_load((ROOT / "ray_job.yaml").read_text())["excludes"]
    assert {".git", ".venv", "runs"} <= set(excluded)
    assert not {"assets", "configs", "cluster", "grader", "learner", "rollout"} & set(excluded)


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", None, 1), ("FAILED", 4, 4), ("STOPPED", None, 130)],
)
def test_the_exit_status_is_that_of_the_run(status: str, driver: int | None, code: int) -> None:
    assert exit_code(status, driver) == code


class FakeClient:
    """A job server with one job, whose log and end are given."""

    def __init__(
        self,
        log: list[str | BaseException],
        status: str = "SUCCEEDED",
        error: Exception | None = None,
        driver: int | None = 0,
        message: str = "",
    ) -> None:
        self._log, self._status, self._error, self._driver, self._message = log, status, error, driver, message

    def get_address(self) -> str:
        return "http://head:8265"

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        for text in self._log:
            if isinstance(text, BaseException):
                raise text
            if text == HANGS:
                await asyncio.sleep(60)
            yield text

    def get_job_info(self, job: str) -> SimpleNamespace:
        if self._error:
            raise self._error
        return SimpleNamespace(status=JobStatus(self._status), driver_exit_code=self._driver, message=self._message)

    def submit_job(self, *, entrypoint: str, runtime_env: dict[str, object], **resources: float) -> str:
        self.submitted = (entrypoint, resources)
        return "a-job"

    def stop_job(self, job: str) -> None:
        self.stopped = job


NO_GPU, ONE_GPU = {"CPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}


@pytest.mark.parametrize(
    ("settings", "nodes", "resources"),
    [
        ([], [NO_GPU], (1.0, 0.0)),
        ([], [NO_GPU, ONE_GPU], (1.0, 1.0)),
        (["learner.gpus=0"], [NO_GPU, ONE_GPU], (1.0, 0.0)),
        (["learner.gpus=0.5", "learner.cpus=6"], [NO_GPU, ONE_GPU], (6.0, 0.5)),
    ],
)
def test_fine_tuning_reserves_a_gpu_where_the_cluster_has_one(
    settings: list[str], nodes: list[dict[str, float]], resources: tuple[float, float]
) -> None:
    assert reserved(load_config(None, settings, environment={}), nodes) == resources


@pytest.mark.parametrize(
    ("settings", "nodes"), [(["learner.gpus=1"], [NO_GPU]), (["learner.cpus=6"], [NO_GPU]), ([], [])]
)
def test_fine_tuning_that_no_node_has_room_for_is_refused(settings: list[str], nodes: list[dict[str, float]]) -> None:
    with pytest.raises(ResourcesError, match=r"no node of the cluster has the learner\.cpus=\d and learner\.gpus=\d"):
        reserved(load_config(None, settings, environment={}), nodes)


def test_fine_tuning_is_submitted_with_the_options_and_settings_of_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    client = FakeClient([])
    monkeypatch.setattr(sft_job, "connect", lambda _: client)
    monkeypatch.setattr(sft_job, "node_resources", lambda _: [ONE_GPU])
    options = ["--out", str(tmp_path / "warm"), "--full", "--steps", "5", "--address", "http://head:8265", "--no-wait"]
    assert main(["sft", "-c", str(ROOT / "configs/demo.yaml"), *options, "learner.cpus=2"]) == 0
    entrypoint, resources = client.submitted
    assert entrypoint == (
        f"caravan sft -c configs/demo.yaml --out {tmp_path}/warm --full --epochs=1.0 --steps=5 --batch-size=16 "
        "--micro-batch-size=4 --learning-rate=0.0001 --warmup-steps=10 --save-steps=100 --keep=1 learner.cpus=2 learner.gpus=1"
    )
    assert resources == {"entrypoint_num_cpus": 2.0, "entrypoint_num_gpus": 1.0}


def test_fine_tuning_to_a_folder_that_is_deleted_with_the_job_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sft", "--out", "warm", "--address", "http://head:8265"]) == 2
    assert "--out warm is in the job's working directory" in capsys.readouterr().err
    monkeypatch.setenv(JOB_VARIABLE, "{}")
    assert main(["sft", "--out", "warm"]) == 2
    assert "--out warm is in the job's working directory" in capsys.readouterr().err


def test_a_job_is_followed_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert follow(FakeClient(["step 1/2\n", "step 2/2\n"]), "a-job", View()) == 0
    assert capsys.readouterr().out == "step 1/2\nstep 2/2\n"


@pytest.mark.parametrize("status", ["FAILED", "STOPPED"])
def test_a_check_that_never_ran_fails_with_rays_reason(status: str, capsys: pytest.CaptureFixture[str]) -> None:
    ended = FakeClient([], status, driver=None, message="runtime_env setup failed:\n  no such file")
    with pytest.raises(ResourcesError, match=rf"a-job {status.lower()} \(runtime_env setup failed: no such file\)$"):
        check(ended, "c.yaml", {})
    follow(ended, "a-job", View())
    assert f"a-job: {status.lower()} (runtime_env setup failed: no such file)" in capsys.readouterr().err


def test_a_check_that_cannot_start_fails_with_its_status_and_a_passed_check_passes() -> None:
    with pytest.raises(ResourcesError, match=r"does not start on the head of the cluster \(status 127"):
        check(FakeClient(["caravan: not found\n"], "FAILED", driver=127), "c.yaml", {})
    check(FakeClient([]), "c.yaml", {})


def test_failed_checks_of_a_cluster_are_printed_and_nothing_is_submitted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ResourcesError, match="the cluster cannot hold this run: see what failed above"):
        check(FakeClient(["FAIL: run: data\n"], "FAILED", driver=1), "c.yaml", {})
    assert capsys.readouterr().out == "FAIL: run: data\n"


def test_a_check_that_is_interrupted_or_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = FakeClient([KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        check(interrupted, "c.yaml", {})
    assert interrupted.stopped == "a-job"
    monkeypatch.setattr("cluster.placement.submit.command.CHECK_SECONDS", 0.1)
    slow = FakeClient([HANGS])
    with pytest.raises(ResourcesError, match=r"did not answer the check within 0\.1 s"):
        check(slow, "c.yaml", {})
    assert slow.stopped == "a-job"


def test_ctrl_c_keeps_the_job_running_and_prints_how_to_stop_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert follow(FakeClient(["step 1/2\n", KeyboardInterrupt()], "RUNNING"), "a-job", View()) == 130
    printed = capsys.readouterr().err
    assert "the job continues" in printed
    assert "RAY_AUTH_MODE=token ray job stop a-job --address http://head:8265" in printed


def test_an_interrupted_log_is_not_reported_as_the_end_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.placement.submit.client.ENDED_SECONDS", 0.0)
    with pytest.raises(ResourcesError, match="broke off, and the job continues"):
        follow(FakeClient(["step 1/2\n", RuntimeError("closed")], "RUNNING"), "a-job", View())
    with pytest.raises(ResourcesError, match="no longer answers"):
        follow(FakeClient([RuntimeError("closed")], error=ConnectionError("refused")), "a-job", View())


def test_a_cluster_that_does_not_answer_is_reported_in_one_line_with_a_fix(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv(
        "RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1"
    )  # restored afterwards, because --address replaces it
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert main(["submit", "-c", "configs/cluster.yaml", "--address", "http://127.0.0.1:9"]) == 1
    for no_url in ("localhost:6379", ""):
        assert main(["submit", "-c", "configs/cluster.yaml", "--address", no_url]) == 2
    printed = capsys.readouterr().err
    assert "no job server answers at http://127.0.0.1:9" in printed
    assert "ssh -L" in printed
    assert "Traceback" not in printed


def test_a_wrong_setting_is_refused_before_the_cluster_is_contacted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["submit", "-c", "configs/demo.yaml", "max_stepz=3", "--address", "http://127.0.0.1:9"]) == 2
    assert "max_stepz" in capsys.readouterr().err
    assert main(["submit", "-c", "configs/cluster.yaml", "run.folder=runs", "--address", "http://127.0.0.1:9"]) == 2
    assert "give an absolute path" in capsys.readouterr().err


def test_a_server_that_does_not_answer_is_refused_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.placement.submit.client.CONNECT_SECONDS", 0.5)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ResourcesError, match=r"no job server answers at http.*does not answer within 0\.5 s"):
            connect(address)

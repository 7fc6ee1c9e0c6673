"""A whole run by ``train`` with fake samplers, graders and learner: its checks, its results, and its resume."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.run import train as training
from cluster.run.gauges import Gauges, exported_name
from cluster.run.resume import resumed_config
from cluster.run.session import run_to_end
from cluster.types import PolicyVersion, ProbePrompt
from grader.fake import FakeGraderPool
from learner.fake import FakeLearner
from rollout.fake import FakeSamplerPool
from rollout.preflight import Preflight

SETTINGS = ("model.path=tiny", "max_steps=2", "held_out=3", "drop_unpassable=false", "run.tracker=none")


class Learner(FakeLearner):
    starts: ClassVar[list[str]] = []  # order of the parts

    async def place(self) -> None:
        self.starts.append("ranks")

    async def start(self) -> PolicyVersion | None:
        await asyncio.sleep(0.05)
        self.starts.append("learner")
        return await super().start()

    async def base_probes(self) -> tuple[ProbePrompt, ...]:
        return (ProbePrompt(token_ids=(5, 6, 7), logprobs=(-1.0, -2.0)),)


ROOT = Path(__file__).parents[3]
MEASURED_BY_TRL = ("entropy", "grad_norm", "kl")  # tests/learner/test_training.py has steps with each
RESTARTS = "num_learner_restarts"  # tests/learner/test_client.py
GPUS: dict[str, float] = {}  # GPUs of the cluster


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    @asynccontextmanager
    async def inspection(_: Config) -> AsyncIterator[Preflight]:
        yield Preflight(None)

    @asynccontextmanager
    async def pools(*_: object, **__: object) -> AsyncIterator[tuple[Any, Any]]:
        Learner.starts.append("pools")
        yield (
            FakeSamplerPool(lambda request, index, _: f"{request.seed} {index}"),
            FakeGraderPool(lambda _, completion: float(completion.text.endswith("0"))),
        )

    def cluster() -> SimpleNamespace:
        return SimpleNamespace(resources={"CPU": 8.0, **GPUS}, nodes=[], num_machines=1, logs=tmp_path)

    monkeypatch.setattr(Learner, "starts", [])
    monkeypatch.setattr(training, "ray_cluster", lambda _: nullcontext(cluster()))
    monkeypatch.setattr(training, "inspect_model", inspection)
    monkeypatch.setattr(training, "prepare_toolchain", lambda: None)
    monkeypatch.setattr("cluster.run.training.samplers_and_graders", pools)
    monkeypatch.setattr("learner.client.RayLearner", lambda _, plan: Learner(plan.checkpoints_dir))
    return tmp_path / "runs" / "r"


def config_of(run: Path, *settings: str) -> Config:
    data = run.parents[1] / "problems.jsonl"
    rows = [
        {"id": str(n), "prompt": f"let f{n} (x : int) : int =", "tests": f"let () = assert (f{n} 1 = {n})"}
        for n in range(9)
    ]
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    places = [f"dataset={data}", f"run.folder={run.parent}", "run.name=r"]
    return load_config(None, [*SETTINGS, *places, *settings], environment={})


@pytest.mark.parametrize(
    ("num_gpus", "num_ranks", "order"),
    [(1.0, 1, ["learner", "pools"]), (2.0, 1, ["pools", "learner"]), (3.0, 2, ["ranks", "pools", "learner"])],
)
def test_a_learner_that_shares_a_gpu_starts_before_the_samplers_and_several_ranks_are_placed_before_them(
    num_gpus: float, num_ranks: int, order: list[str], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GPUS, "GPU", num_gpus)
    config = config_of(run, "max_steps=1", "evaluation.num_problems=0", f"learner.num_ranks={num_ranks}")
    assert run_to_end(lambda view: training.train(config, view)) == 0
    assert Learner.starts == order


def test_a_run_is_evaluated_trained_and_extended(run: Path) -> None:
    config = config_of(run)
    assert run_to_end(lambda view: training.train(config, view)) == 0
    assert json.loads((run / "summary.json").read_text())["steps"] == 2
    extended = resumed_config(run, ["max_steps=3"])
    assert run_to_end(lambda view: training.train(extended, view)) == 0
    names = [json.loads(line)["name"] for line in (run / "evaluation.jsonl").read_text().splitlines()]
    assert names == ["before", "step 2", "after"]
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3


def test_every_metric_of_the_dashboard_and_the_alerts_is_exported(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = {exported_name(name) for name in (*MEASURED_BY_TRL, RESTARTS)}  # the fake learner measures nothing

    def show(_: Gauges, metrics: Mapping[str, float | None]) -> None:
        exported.update(map(exported_name, metrics))

    monkeypatch.setattr(Gauges, "show", show)
    config = config_of(run, "evaluation.num_problems=3")
    assert run_to_end(lambda view: training.train(config, view)) == 0
    for file in ("deploy/grafana.json", "deploy/alerts.yaml"):
        named = set(re.findall(r"ray_\w+", (ROOT / file).read_text(encoding="utf-8")))
        assert len(named) > 5
        assert not named - exported, file

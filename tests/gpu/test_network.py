"""GPU acceptance suite: real models; ``make test-gpu OPTIONS=--network``."""

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cluster.config.load import load_config
from cluster.config.model_path import model_path
from cluster.console import View
from cluster.run.base_gaps import PROBE_TOKENS
from cluster.run.loading import load_and_render
from cluster.types import Group, ProbeGap
from learner.lora_settings import LoraSettings
from learner.plan import LearnerPlan
from learner.settings import LearnerSettings
from learner.worker import LearnerWorker
from rollout.weight_sync import probe_gaps, tolerance, typical_gap
from tests.gpu.conftest import Report
from tests.gpu.records import ROOT
from tests.gpu.samplers import MakeSampler, group_of
from tests.learner.factories import TEMPERATURE
from tests.rollout.conftest import RunInLoop

pytestmark = pytest.mark.slow

MODELS = (
    "Qwen/Qwen2.5-Coder-1.5B-Instruct",
    "Qwen/Qwen3-1.7B",
    "unsloth/Llama-3.2-1B-Instruct",
)
NUM_PROMPTS = 100
NUM_PROBES = 16  # of a run
NUM_STEPS = 20
CARAVAN = Path(sys.executable).parent / "caravan"
GIB = 1024**3


def prompts_of(model: str) -> list[tuple[int, ...]]:
    """Prompts of the built-in problems, cut like the probe prompts of a run: to the first token and the last ones."""
    overrides = [f"model.path={model}", "data.dataset=builtin", "max_prompt_tokens=704"]
    config = load_config(None, overrides, environment={})
    rendered = [prompt.token_ids for prompt in load_and_render(config, View()).prompts.values()]
    long = [token_ids for token_ids in rendered if len(token_ids) >= PROBE_TOKENS]
    return [(token_ids[0], *token_ids[1 - PROBE_TOKENS :]) for token_ids in long[:NUM_PROMPTS]]


def gap_quantile(gaps: tuple[ProbeGap, ...], share: float) -> float:
    """Quantile of the policy's weight-sync gap over 1000 random choices of a run's probe prompts."""
    source = random.Random(0)
    found = sorted(typical_gap(source.sample(gaps, NUM_PROBES)) for _ in range(1000))
    return found[int(share * len(found)) - 1]


@pytest.mark.gpu(
    f"weight-sync gap of a policy over {NUM_PROMPTS} prompts",
    f"below its tolerance for 99% of the choices of {NUM_PROBES} probe prompts",
)
@pytest.mark.parametrize(
    "model",
    ["tiny", *(pytest.param(name, marks=[pytest.mark.network, pytest.mark.needs_gpus(1)]) for name in MODELS)],
)
def test_the_tolerance_holds_whichever_prompts_are_the_probes(
    model: str, report: Report, gpus: float, make_sampler: MakeSampler, run: RunInLoop, tmp_path: Path
) -> None:
    path = model_path(load_config(None, [f"model.path={model}"], environment={}))
    prompts = prompts_of(model)
    assert len(prompts) == NUM_PROMPTS
    plan = LearnerPlan(
        model=path,
        temperature=TEMPERATURE,
        max_completion_tokens=64,
        max_staleness=8,
        max_steps=4,
        seed=0,
        checkpoints_dir=tmp_path,
        probe_ids=tuple(prompts),
    )
    lora = LoraSettings(r=8, alpha=16, dropout=0.0)
    learner = LearnerWorker(LearnerSettings(lora=lora, learning_rate=1e-4, gpus=gpus), plan)
    learner.start()
    try:
        sampler = make_sampler(path, max_prompt_tokens=128)
        allowed = tolerance(sampler._settings, run(sampler.base_gaps(learner.base_probes()[:NUM_PROBES])))
        groups: list[Group] = [run(group_of(sampler, number, size=4)) for number in range(2)]
        policy, _ = learner.step(groups)
    finally:
        learner.close()
    verification = run(sampler.load_policy(policy, {1}, allowed))
    assert sampler._mode is not None
    gaps = probe_gaps(policy.probes, run(sampler._score(policy.probes, 1, sampler._mode.adapter(1))))
    worst = gap_quantile(gaps, 0.99)
    report(f"{worst:.1e} of {allowed:.1e}", passed=worst < allowed and verification.failure is None)


@pytest.mark.gpu(f"configs/qwen1.5b-1gpu.yaml, {NUM_STEPS} steps", "all steps")
@pytest.mark.network
@pytest.mark.needs_gpus(1)
@pytest.mark.timeout(2400)
def test_the_qwen_config_runs_on_one_gpu(report: Report, tmp_path: Path) -> None:
    import torch

    total = torch.cuda.get_device_properties(0).total_memory / GIB
    used: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            used.append(torch.cuda.device_memory_used() / GIB)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    overrides = [f"run.folder={tmp_path}", "run.name=run", f"max_steps={NUM_STEPS}", "evaluation.num_problems=0"]
    done = subprocess.run(
        [str(CARAVAN), "train", "-c", str(ROOT / "configs/qwen1.5b-1gpu.yaml"), *overrides],
        capture_output=True,
        text=True,
        timeout=2300,
        env={**os.environ, "RAY_ADDRESS": "local"},
        cwd=ROOT,
        check=False,
    )
    ended.set()
    watcher.join()
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    report(
        f"{len(steps)} steps, peak {max(used):.1f} of {total:.1f} GiB",
        passed=len(steps) == NUM_STEPS,
    )

"""From fine-tuning to evaluation with a pretrained chat model, on the real vLLM, Ray, TRL and OCaml compiler.

Most tests have tiny models with a tokenizer of their own. This one has a real vocabulary, a real chat template, 30 layers and
weights that were trained.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cluster.config.load import load_config
from cluster.ledger.run_folder import RunFolder
from cluster.run.base_gaps import BaseGaps
from cluster.run.session import learner_plan
from cluster.types import Problem, Prompt
from learner.training.merge import logprobs
from learner.worker import LearnerWorker
from rollout.prompt import PromptRenderer
from rollout.prompt_settings import PromptSettings
from rollout.sampler import Sampler
from rollout.settings import RolloutSettings
from rollout.weight_sync import max_base_gap, tolerance, typical_gap
from tests.real_model import Unreachable, real_model
from tests.test_run import CARAVAN, completed

pytestmark = pytest.mark.slow

SETTINGS = (
    "data.dataset=builtin",
    "data.held_out=200",
    "rollout.max_prompt_tokens=128",
    "rollout.max_completion_tokens=16",
    "learner.lora.r=8",
    "learner.lora.alpha=16",
    "learner.lora.dropout=0",  # it would change the log-probabilities in training
)


TWICE = Problem(
    id="twice",
    statement="(** Twice a number.\n * >>> twice 2\n * 4\n *)",
    signature="let twice (n : int) : int =",
    tests="",
)


@pytest.fixture(scope="module")
def model() -> str:
    try:
        return real_model()
    except Unreachable as reason:
        pytest.skip(f"SmolLM2-135M-Instruct is not available: {reason}")


def caravan(*arguments: str) -> None:
    """Run a command in a process of its own."""
    completed([str(CARAVAN), *arguments])


@pytest.fixture(scope="module")
def warm(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sft") / "warm"
    options = ("--steps", "3", "--batch-size", "2", "--learning-rate", "5e-4", "--warmup-steps", "1")
    caravan("sft", "--out", str(out), *options, f"model.path={model}", *SETTINGS)
    return out


@pytest.fixture(scope="module")
def finished(warm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, whose samplers serve float32."""
    runs = tmp_path_factory.mktemp("runs")
    settings = (
        *("loop.max_steps=2", "loop.groups_per_step=1", "loop.max_staleness=0", "rollout.group_size=3"),
        *("rollout.enforce_eager=true", "rollout.dtype=float32", "grader.num_graders=1", "grader.min_code_lines=1"),
        "data.drop_unpassable=false",
        *("learner.learning_rate=1e-3", "lr_scheduler_type=constant", "evaluation.num_problems=0"),
        "learner.entropy_coef=0.01",  # a gradient, also where no completion earns a reward
    )
    caravan("train", f"run.folder={runs}", "run.name=run", f"model.path={warm}", *SETTINGS, *settings)
    return runs / "run"


@pytest.fixture(scope="module")
def exported(finished: Path) -> Path:
    """Both forms of the trained policy: ``adapter`` in PEFT's format, and ``merged``."""
    out = finished.parent / "exported"
    caravan("export", str(finished), str(out / "adapter"))
    caravan("export", str(finished), "--merge", str(out / "merged"), "--dtype", "float32")
    return out


def prompt_of(tokenizer: Any) -> Prompt:
    renderer = PromptRenderer(tokenizer, PromptSettings(), max_prompt_tokens=256, today=date.today())
    return renderer.render(TWICE)


def test_a_prompt_is_what_the_models_own_chat_template_renders(model: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    prompt = prompt_of(tokenizer)
    assert prompt.text.startswith("<|im_start|>system\nSolve the problem in OCaml.")
    assert prompt.text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert TWICE.prompt in prompt.text.partition("<|im_start|>user\n")[2]
    assert list(prompt.token_ids) == tokenizer.encode(prompt.text, add_special_tokens=False)
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert (prompt.token_ids.count(start), prompt.token_ids.count(end)) == (3, 2)


def test_sft_raises_the_likelihood_of_a_solution_and_writes_a_model(model: str, warm: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    answer = tokenizer.encode(f"{TWICE.signature}\n  n * 2\n(* END *)<|im_end|>", add_special_tokens=False)
    sequence = [*prompt_of(tokenizer).token_ids, *answer]
    before, after = (
        statistics.fmean(logprobs(path, [sequence], dtype="float32")[-len(answer) :]) for path in (model, str(warm))
    )
    assert after > before + 0.1
    assert (warm / "adapter/adapter_model.safetensors").is_file()


def test_two_steps_are_sampled_graded_learned_and_verified_in_float32(finished: Path) -> None:
    steps = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2]
    assert all(step["grad_norm"] > 0 for step in steps)
    assert all(step["sampling/sampling_logp_difference/mean"] < 1e-4 for step in steps), steps
    publishes = [json.loads(line) for line in (finished / "publishes.jsonl").read_text().splitlines()]
    assert publishes
    saved = BaseGaps.read(RunFolder(finished))
    assert saved is not None
    assert saved.sampler_dtype == "float32"
    assert typical_gap(saved.gaps) < 1e-4


def test_the_policy_is_verified_in_bfloat16(finished: Path, quick_engines: None) -> None:
    config = load_config(finished / "config.yaml", environment={})
    saved = BaseGaps.read(RunFolder(finished))
    assert saved is not None
    plan = learner_plan(config, max_steps=2, probe_ids=saved.token_ids, checkpoints_dir=RunFolder(finished).checkpoints)
    learner = LearnerWorker(config.learner, plan)
    policy = learner.start()
    probes = learner.base_probes()
    learner.close()
    assert policy is not None
    settings = RolloutSettings(
        max_prompt_tokens=192,
        max_completion_tokens=24,
        enforce_eager=True,
        kv_cache_gib=0.1,
        dtype="bfloat16",
        max_concurrent_requests=16,
        weight_sync_mode="versions",
    )
    sampler = Sampler(
        settings,
        model=config.model.path,
        lora_rank=8,
        lora_targets=sorted({module.rpartition(".")[2] for module in policy.modules}),
        max_staleness=1,
        pool_id=uuid4().hex,
    )

    async def scenario() -> None:
        await sampler.start()
        try:
            gaps = await sampler.base_gaps(probes)
            assert 1e-3 < typical_gap(gaps) < max_base_gap(settings)
            verification = await sampler.load_policy(policy, {policy.number}, tolerance(settings, gaps))
            assert verification.failure is None
        finally:
            await sampler.shutdown()

    asyncio.run(scenario())


RELOADED = """
import json
import sys
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

base, exported, ids = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])

def logprobs(engine, adapter=None):
    sampling = SamplingParams(max_tokens=1, prompt_logprobs=0)
    (output,) = engine.generate({"prompt_token_ids": ids}, sampling, lora_request=adapter, use_tqdm=False)
    return [row[token].logprob for row, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]

settings = {"dtype": "float32", "enforce_eager": True, "max_model_len": 256, "kv_cache_memory_bytes": 1 << 27}
adapted = LLM(base, enable_lora=True, max_lora_rank=8, **settings)
found = {"adapter": logprobs(adapted, LoRARequest("trained", 1, exported + "/adapter"))}
found["merged"] = logprobs(LLM(exported + "/merged", **settings))
print(json.dumps(found))
"""


def test_the_exports_have_the_same_log_probabilities_in_plain_vllm_and_transformers(
    warm: Path, exported: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(warm).encode(TWICE.prompt, add_special_tokens=False)
    script = tmp_path / "reloaded.py"
    script.write_text(RELOADED)
    environment = {**os.environ, "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    done = subprocess.run(
        [sys.executable, str(script), str(warm), str(exported), json.dumps(ids)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    served = json.loads(done.stdout.splitlines()[-1])
    wanted = logprobs(str(warm), [ids], dtype="float32", adapter=exported / "adapter")
    plain = logprobs(str(exported / "merged"), [ids], dtype="float32")
    base = logprobs(str(warm), [ids], dtype="float32")
    assert max(abs(one - other) for one, other in zip(wanted, base, strict=True)) > 1e-3  # the adapter does something
    for found in (served["adapter"], served["merged"], plain):
        assert found == pytest.approx(wanted, abs=1e-3)


def test_the_exported_model_is_evaluated(exported: Path, tmp_path: Path) -> None:
    settings = ("evaluation.num_problems=2", "evaluation.completions_per_problem=2", "rollout.enforce_eager=true")
    out = tmp_path / "result.json"
    model = f"model.path={exported / 'merged'}"
    caravan("eval", "--out", str(out), model, *SETTINGS, *settings)
    result = json.loads(out.read_text())
    assert (result["num_problems"], result["num_completions"]) == (2, 4)

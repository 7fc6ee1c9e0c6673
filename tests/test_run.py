"""A whole run through the command line: real vLLM, Ray, TRL and OCaml compiler on this machine's CPU."""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import psutil
import pyarrow.dataset
import pytest

from tests.mounts import DOCKERS_SHARED_MEMORY, can_mount, with_mounts

ROOT = Path(__file__).parent.parent
CARAVAN = Path(sys.executable).parent / "caravan"
SHARED = ROOT.parent / "shared" / "data"
LOG_LINE = re.compile(
    r"\[Epoch \d+\.\d\d\]  loss=-?\d+\.\d{4} ?  grad=\d+\.\d{4}  lr=\d\.\d\de[+-]\d\d  reward=\d\.\d{3}±\d\.\d{3}  "
    r"syntax_rew=\d\.\d{3}±\d\.\d{3}  entropy=\d+\.\d{3}  frac_zero_std=\d\.\d\d"
)
# A separate Ray, whatever else runs on this machine.
ENVIRONMENT = {**os.environ, "RAY_ADDRESS": "local", "HF_HUB_OFFLINE": "1"}

SYNCHRONOUS = ("max_steps=4", "max_staleness=0")

pytestmark = pytest.mark.slow


def command(runs: Path, *settings: str) -> list[str]:
    small = (
        "groups_per_step=4",
        "group_size=4",
        "max_completion_tokens=48",
        "save_every_steps=2",
        "evaluation.num_problems=4",
        "completions_per_problem=2",
        "drop_unpassable=false",  # the audit of all problems takes longer than the steps
    )
    return [str(CARAVAN), "train", "-c", str(ROOT / "configs/demo.yaml"), f"run.folder={runs}", *small, *settings]


def caravan(arguments: list[str], *, timeout: float = 540) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=timeout, env=ENVIRONMENT, cwd=ROOT)


def completed(arguments: list[str]) -> str:
    """Run a command that must succeed; return its standard error."""
    done = caravan(arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr


@dataclass(frozen=True)
class Finished:
    folder: Path
    output: str


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run with the shared memory of a container (64 MiB, noexec) if it can be mounted."""
    runs = tmp_path_factory.mktemp("runs")
    train = command(runs, "run.name=short", "drop_unpassable=true", *SYNCHRONOUS)
    return Finished(runs / "short", completed(with_mounts(DOCKERS_SHARED_MEMORY, train) if can_mount() else train))


@pytest.fixture(scope="module")
def finished(finished_run: Finished) -> Path:
    return finished_run.folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_writes_its_logs_in_the_format_of_the_baseline_analyses(finished: Path) -> None:
    lines = finished.joinpath("learning.log").read_text().splitlines()
    assert len(lines) == 4
    assert all(LOG_LINE.fullmatch(line) for line in lines), lines
    assert [row["step"] for row in rows(finished / "metrics.jsonl")] == [1, 2, 3, 4]
    assert [row["name"] for row in rows(finished / "evaluation.jsonl")] == ["before", "after"]
    assert len(rows(finished / "reward_logs/completions.jsonl")) == 4 * 16
    assert len(rows(finished / "reward_logs/syntax_aware_breakdown.jsonl")) == 4 * 16
    assert (finished / "reward.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {"checkpoint-2", "checkpoint-4"}


def test_every_metric_of_a_step_is_documented(finished: Path) -> None:
    documented = re.findall(r"`([^` ]+)`", (ROOT / "docs/metrics.md").read_text())
    metrics = {name for row in rows(finished / "metrics.jsonl") for name in row}
    assert not [name for name in metrics if not any(fnmatch(name, pattern) for pattern in documented)]


def test_samplers_and_learner_agree_on_the_tokens_log_probabilities(finished: Path) -> None:
    for row in rows(finished / "metrics.jsonl"):
        if row["mean_staleness"] == 0:
            assert row["sampling/sampling_logp_difference/mean"] < 1e-4, row


def test_a_start_logs_the_gap_between_samplers_and_learner(finished_run: Finished) -> None:
    (line,) = [line for line in finished_run.output.splitlines() if "agree about the base model" in line]
    assert float(line.partition("base model: ")[2].split()[0]) < 1e-4
    assert "mean reward" in finished_run.output


def test_the_rollouts_load_as_a_dataset_and_every_completion_has_one_outcome(finished: Path) -> None:
    import datasets

    files = [str(path) for path in (finished / "rollouts").glob("*.parquet")]
    rollouts = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(finished / "cache"))
    assert len(set(rollouts["completion_id"])) == len(rollouts) == 64
    assert set(rollouts["fate"]) == {"trained"}
    # Nothing is filtered: the whole group of every position of the problem stream is trained once.
    assert Counter(rollouts["group_id"]) == {f"g{position:07d}": 4 for position in range(16)}
    for row in rollouts:
        assert len(row["token_ids"]) == len(row["sampler_logprobs"]) > 0


def test_the_final_adapter_loads_in_transformers_and_in_plain_vllm(finished: Path) -> None:
    script = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
import torch

base, adapter = sys.argv[1:]
prompt = "(** Twice a number. *)\\nlet twice (n : int) : int =\\n"
tokenizer = AutoTokenizer.from_pretrained(base)
ids = tokenizer.encode(prompt, add_special_tokens=False)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
plain = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1], -1)
tuned = torch.log_softmax(PeftModel.from_pretrained(model, adapter)(torch.tensor([ids])).logits[0, -1], -1)
assert (plain - tuned).abs().max() > 1e-4, "the adapter changes nothing"
if __name__ == "__main__":
    engine = LLM(base, dtype="float32", enforce_eager=True, enable_lora=True, max_lora_rank=16, max_model_len=256,
                 kv_cache_memory_bytes=1 << 28)
    (output,) = engine.generate({"prompt_token_ids": ids}, SamplingParams(max_tokens=1, temperature=0, logprobs=1),
                                lora_request=LoRARequest("tuned", 1, adapter))
    (token,) = output.outputs[0].token_ids
    served = output.outputs[0].logprobs[0][token].logprob
    assert abs(served - tuned[token].item()) < 1e-3, (served, tuned[token].item(), plain[token].item())
"""
    path = finished / "load.py"
    path.write_text(script)
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process: one import of vLLM less
    done = subprocess.run(
        [sys.executable, str(path), str(ROOT / "assets/tiny"), str(finished / "adapter")],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_finished_run_is_not_started_again(finished: Path) -> None:
    again = caravan(command(finished.parent, "run.name=short", *SYNCHRONOUS))
    assert again.returncode == 1
    assert "is finished" in again.stderr
    assert "Traceback" not in again.stderr


def sampled(run: Path) -> dict[str, tuple[object, ...]]:
    """Return tokens, log-probabilities, reward and advantage of each completion of a finished run."""
    columns = ["completion_id", "step", "token_ids", "sampler_logprobs", "total_reward", "advantage"]
    table = pyarrow.dataset.dataset(run / "rollouts", format="parquet").to_table(columns=columns)
    return {str(row.pop("completion_id")): tuple(row.values()) for row in table.to_pylist()}


def weights(run: Path) -> bytes:
    return (run / "adapter/adapter_model.safetensors").read_bytes()


def kill_in_step(process: "subprocess.Popen[str]", run: Path, step: int) -> str:
    """Kill the run (-9) once the step before ``step`` is done; return its standard error."""
    try:
        deadline = time.monotonic() + 240
        while len(rows(run / "metrics.jsonl")) < step - 1:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, f"step {step - 1} was not done"
            time.sleep(0.05)
        descendants = psutil.Process(process.pid).children(recursive=True)
        parts = [each for each in descendants if "Agent" not in each.name()]  # Ray's own agents end a minute later
    finally:
        process.kill()
    _, output = process.communicate()
    assert len(rows(run / "metrics.jsonl")) < int(SYNCHRONOUS[0].partition("=")[2]), (
        "the run ended before it was killed"
    )
    _, alive = psutil.wait_procs(parts, timeout=180)  # Ray ends them when it notices
    assert not alive, alive
    return output


@pytest.mark.long
@pytest.mark.timeout(900)  # several starts, perhaps while other tests run
def test_a_run_that_is_extended_and_killed_ends_bit_for_bit_like_an_uninterrupted_run(
    finished: Path,
) -> None:
    run = finished.parent / "extended"
    completed(command(finished.parent, "run.name=extended", "max_steps=2", "max_staleness=0"))
    former = weights(run)
    extend = [str(CARAVAN), "train", "--resume", str(run), "max_steps=4"]
    process = subprocess.Popen(extend, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=ROOT)
    output = kill_in_step(process, run, step=4)
    assert "resuming from the checkpoint of step 2" in output
    assert "after step 2: loop.max_steps=4" in output
    # Killed after its checkpoint: step 3 is sampled and learned again.
    assert "resuming from the checkpoint of step 2" in completed([str(CARAVAN), "train", "--resume", str(run)])
    assert sampled(run) == sampled(finished)
    assert weights(run) == weights(finished) != former
    assert (run / "adapter-2/adapter_model.safetensors").read_bytes() == former
    assert [row["max_steps"] for row in rows(run / "metrics.jsonl")] == [2, 2, 4, 4]
    assert rows(run / "phases.jsonl") == [{"step": 2, "set": {"loop.max_steps": 4}}]
    measured = [(row["name"], row["step"]) for row in rows(run / "evaluation.jsonl")]
    assert measured == [("before", 0), ("step 2", 2), ("after", 4)]
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], len(summary["held_out"])) == (4, 3)
    replayed = caravan([str(CARAVAN), "replay", str(run)])
    assert replayed.returncode == 0, replayed.stderr
    assert "bit for bit" in replayed.stdout
    again = caravan([str(CARAVAN), "train", "--resume", str(run), "max_steps=2"])
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "has done 4 steps" in again.stderr


@pytest.mark.long
def test_real_problems_and_the_real_tokenizer_train(tmp_path: Path) -> None:
    if not SHARED.exists():
        pytest.skip("the shared data is not next to the repository")
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(SHARED / "qwen2.5-tokenizer")
    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=len(tokenizer) + 7,  # the real model's embedding is larger than its tokenizer too
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,  # 32 dimensions each: vLLM's CPU attention takes no fewer
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.eos_token_id,
    )
    Qwen2ForCausalLM(shape).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    done = caravan(
        command(
            tmp_path,
            "run.name=real",
            "drop_unpassable=true",
            "max_steps=3",
            "evaluation.at_checkpoints=true",
            "num_few_shot=1",
            "max_prompt_tokens=704",
            f"model.path={tmp_path / 'model'}",
            f"dataset={SHARED / 'ocaml_problems.jsonl'}",
            "held_out=20",
        )
    )
    assert done.returncode == 0, done.stderr
    breakdown = rows(tmp_path / "real/reward_logs/syntax_aware_breakdown.jsonl")
    assert len(breakdown) == 3 * 16
    assert all(row["tests_total"] > 0 for row in breakdown)
    measured = rows(tmp_path / "real/evaluation.jsonl")
    assert [(row["name"], row["step"]) for row in measured] == [("before", 0), ("step 2", 2), ("after", 3)]
    best = json.loads((tmp_path / "real/checkpoints/best.json").read_text())
    assert best["reward"] == max(row["reward"] for row in measured[1:])

"""The model card of an exported run: data, configuration, curve and evaluation, as Markdown."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.config.config import Config, flatten
from cluster.config.method import FULL
from cluster.config.yaml_text import dump_yaml_text
from cluster.ledger.evaluation_result import EvaluationResult
from cluster.ledger.run_folder import RunFolder
from cluster.loop.evaluation import lost_problems_warning

NUM_STEPS_SHOWN = 8  # rows of the training table
METRICS = {
    "reward": "mean reward",
    "best_of_n": "best of a group",
    "pass_rate": "passed all tests",
    "frac_zero_std": "groups without signal",
    "entropy": "entropy",
    "kl": "KL",
}
HELD_OUT = {"reward": "mean reward", "pass_rate": "passed all tests", "solved_once": "solved at least once"}
# Parts of keys that have no effect on the model: placement and deadlines.
NOT_SHOWN = (
    "deadline_seconds",
    "gpus",
    "cpus",
    "_samplers",
    "tensor_parallel_size",
    "_graders",
    "num_threads",
    "run.folder",
    "kv_cache",
    "gpu_memory",
    "max_num_batched_tokens",
    "micro_batch_tokens",
)


def card(folder: RunFolder, config: Config, *, step: int, written_dtype: str | None, base: str) -> str:
    """The card of the model after ``step``; ``written_dtype`` is None for an adapter, ``base`` is the base model's name.

    Paths on this machine are written without their folders. Raises RunFolderError.
    """
    rows = [row for row in folder.rows(folder.metrics) if row["step"] <= step]
    evaluations = [result for result in folder.evaluations() if (result.step or 0) <= step]
    parts = [
        _front_matter(base, is_adapter=written_dtype is None),
        f"# {folder.path.resolve().name}, step {step}",
        _description(config, written_dtype, base),
        "## Data\n\n" + _data(folder, config),
        "## Evaluation\n\n" + (_evaluation(evaluations) if evaluations else "No held-out problem was measured."),
        "## Training\n\n" + _training(rows),
        "![Reward over the steps of the run](reward.png)" if folder.curve.is_file() else "",
        "## Configuration\n\nSettings that differ from Caravan's defaults:\n\n```yaml\n"
        + _settings(config, base)
        + "```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(base: str, *, is_adapter: bool) -> str:
    known = {"base_model": base} if "/" in base else {}  # the hub accepts only ids
    tags = {
        "library_name": "peft" if is_adapter else "transformers",
        "tags": ["ocaml", "grpo", *(("lora",) if is_adapter else ())],
    }
    return f"---\n{yaml.safe_dump({**known, **tags}, sort_keys=False)}---"


def _description(config: Config, written_dtype: str | None, model: str) -> str:
    made = "Trained with GRPO on OCaml problems by Caravan: the reward comes from the OCaml compiler and the problems' tests."
    if written_dtype:
        how = "with all weights trained" if config.learner.method == FULL else "with the adapter merged in"
        return f"{made} `{model}` {how}, in {written_dtype}: transformers and vLLM load it directly."
    lora = config.learner.lora
    scale = f"alpha {lora.alpha}" + (", scaled by alpha / sqrt(rank): rsLoRA" if lora.use_rslora else "")
    return f"{made} A LoRA adapter (rank {lora.r}, {scale}) in PEFT format for `{model}`."


def _data(folder: RunFolder, config: Config) -> str:
    data = config.data
    text = f"`{_without_folder(data.dataset)}`, {data.held_out} problems held out (split seed {data.split_seed})."
    if folder.summary.is_file():
        problems = json.loads(folder.summary.read_text(encoding="utf-8"))["problems"]
        text += " Problems: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in problems.items()) + "."
    return text


def _evaluation(results: Sequence[EvaluationResult]) -> str:
    lines = [_line("held-out problems", *HELD_OUT.values(), "problems", "completions"), _line("---", *["---:"] * 5)]
    for result in results:
        reward = result.reward_text
        shares = [f"{getattr(result, name):.1%}" for name in HELD_OUT if name != "reward"]
        counts = [str(getattr(result, name)) for name in ("num_problems", "num_completions")]
        when = f"{result.name} training (step {result.step})" if result.name in ("before", "after") else result.name
        lines.append(_line(when, reward, *shares, *counts))
    warnings = [f"\n\n{warning}." for result in results if (warning := lost_problems_warning(result))]
    return "\n".join(lines) + "\n\nThe error is the standard error over problems." + "".join(warnings)


def _training(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of mean metrics over NUM_STEPS_SHOWN windows of the run."""
    names = [name for name in METRICS if any(name in row for row in rows)]
    lines = [_line("steps", *(METRICS[name] for name in names)), _line("---", *["---:"] * len(names))]
    size = -(-len(rows) // NUM_STEPS_SHOWN)
    for start in range(0, len(rows), max(1, size)):
        some = rows[start : start + size]
        values = [[row[name] for row in some if row.get(name) is not None] for name in names]
        lines.append(
            _line(
                f"{some[0]['step']}-{some[-1]['step']}" if len(some) > 1 else str(some[0]["step"]),
                *(f"{statistics.fmean(of_one):.3f}" if of_one else "" for of_one in values),
            )
        )
    return "\n".join(lines)


def _settings(config: Config, base: str) -> str:
    defaults = flatten(Config())
    changed = {
        key: base if key == "model.path" else value if key.startswith("prompt.") else _without_folder(value)
        for key, value in flatten(config).items()
        if defaults.get(key) != value and not any(name in key for name in NOT_SHOWN)
    }
    return dump_yaml_text(changed)


def _without_folder(value: Any) -> Any:
    """The last part of a path; other values unchanged. A data set of the hub has a slash in its name, too."""
    if isinstance(value, str) and (value.startswith(("/", "./", "../", "~")) or (Path(value).suffix and "/" in value)):
        return Path(value).name
    return value


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"

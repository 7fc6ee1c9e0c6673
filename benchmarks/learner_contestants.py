"""Contestants of ``make bench-learner``: the learner and TRL's GRPOTrainer, on the same groups and model."""

import random
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants import Link
from cluster.types import Completion, FinishReason, Group, Problem
from grader.fake import grade_of
from learner.plan import LearnerPlan
from learner.settings import LearnerSettings
from learner.training.quiet import silence_libraries

MAX_COMPLETION_TOKENS = 512
WARM_UP_STEPS = 1
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Task of a contestant."""

    model: str  # a folder, or a Hugging Face id
    settings: LearnerSettings
    groups: tuple[Group, ...]
    num_steps: int  # timed steps per turn
    scratch: Path


def make_groups(*, num_groups: int, group_size: int, vocabulary: int, uneven: bool, seed: int = 0) -> tuple[Group, ...]:
    """Make groups of random tokens with different rewards.

    Uneven lengths are log-normal, with parameters measured on OCaml problems in Qwen2.5's tokenizer and chat format: a median of
    220 tokens for prompts (deviation 0.4), and of 100 for completions, that of the reference solutions (deviation 0.65). One
    completion in twenty has the maximum of 512 tokens. With even lengths, all prompts and completions have 256 tokens.
    """
    rng = random.Random(seed)

    def prompt_length() -> int:
        return min(700, round(rng.lognormvariate(5.39, 0.4))) if uneven else 256

    def completion_length() -> int:
        if not uneven:
            return 256
        if rng.random() < 0.05:
            return MAX_COMPLETION_TOKENS
        return min(MAX_COMPLETION_TOKENS, max(8, round(rng.lognormvariate(4.6, 0.65))))

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, vocabulary) for _ in range(count))

    groups = []
    for number in range(num_groups):
        prompt = tokens(prompt_length())
        completions, grades = [], []
        for index in range(group_size):
            token_ids = tokens(completion_length())
            completions.append(
                Completion(
                    id=f"g{number}-c{index}",
                    group_id=f"g{number}",
                    problem_id="p",
                    index=index,
                    prompt_ids=prompt,
                    token_ids=token_ids,
                    sampler_logprobs=tuple(rng.gauss(-9.5, 0.5) for _ in token_ids),
                    text="",
                    finish_reason=FinishReason.STOP,
                    policy_version=0,
                    seconds=0.0,
                )
            )
            grades.append(grade_of(rng.random()))
        problem = Problem(id="p", statement="", signature="", tests="")
        groups.append(Group(id=f"g{number}", problem=problem, completions=tuple(completions), grades=tuple(grades)))
    return tuple(groups)


def caravan(link: Link, work: Work) -> None:
    """Run turns of steps of Caravan's learner."""
    silence_libraries()
    from learner.worker import LearnerWorker

    worker = LearnerWorker(work.settings, _plan(work))
    worker.start()
    memory = _Memory(work.settings)

    def run_turn(_: Mapping[str, Any]) -> Mapping[str, Any]:
        wall, cpu, losses, padding = [], [], [], 0.0
        for step in range(WARM_UP_STEPS + work.num_steps):
            began, began_cpu = time.perf_counter(), time.process_time()
            report = worker.step(work.groups)[1]
            if step >= WARM_UP_STEPS:
                wall.append(time.perf_counter() - began)
                cpu.append(time.process_time() - began_cpu)
            losses.append(report.metrics["loss"])
            padding = report.metrics["padding_share"]
        return {"wall": wall, "cpu": cpu, "losses": losses, "padding_share": padding, **memory.measurements()}

    link.serve(run_turn)


def plain_trl(link: Link, work: Work) -> None:
    """Run turns of steps of TRL's GRPOTrainer with its own micro-batches and padding, on given completions and rewards."""
    silence_libraries()
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback

    from learner.batch.advantages import group_advantages
    from learner.training.build import lora_config
    from learner.training.model import choose_device, load_model
    from learner.training.trainer import GRPOTrainer

    torch.set_num_threads(work.settings.num_threads)
    device = choose_device(work.settings)
    model, tokenizer = load_model(work.model, device)
    rows = [
        (completion, advantage)
        for group, values in zip(
            work.groups, group_advantages([g.rewards for g in work.groups], scale="group"), strict=True
        )
        for completion, advantage in zip(group.completions, values, strict=True)
    ]
    batch = padded(rows, tokenizer.pad_token_id)
    width = batch["prompt_ids"].size(1) + batch["completion_ids"].size(1)
    size = rows_that_fit(len(rows), width, work.settings.micro_batch_tokens)
    wall: list[float] = []
    cpu: list[float] = []

    class Plain(GRPOTrainer):  # type: ignore[misc]
        """GRPOTrainer without generation."""

        def _generate_and_score_completions(self, _: Any) -> Any:
            return {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Records wall and CPU time from a step's first micro-batch to its optimizer step."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began, self.began_cpu = time.perf_counter(), time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            wall.append(time.perf_counter() - self.began)
            cpu.append(time.process_time() - self.began_cpu)

    trainer = Plain(
        model=model,
        processing_class=tokenizer,
        args=_plain_arguments(
            work,
            num_rows=len(rows),
            batch_size=size,
            use_cpu=device.use_cpu,
            bf16=device.dtype == torch.bfloat16,
        ),
        peft_config=lora_config(work.settings.lora, model, model.name_or_path),
        train_dataset=Dataset.from_dict({"prompt": ["-"] * len(rows)}),
        reward_funcs=lambda **_: [],
        callbacks=[Clock()],
    )
    memory = _Memory(work.settings)

    def run_turn(_: Mapping[str, Any]) -> Mapping[str, Any]:
        wall.clear()
        cpu.clear()
        trainer.train()
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
        real = sum(len(completion.prompt_ids) + len(completion.token_ids) for completion, _ in rows)
        return {
            "wall": wall[WARM_UP_STEPS:],
            "cpu": cpu[WARM_UP_STEPS:],
            "losses": losses,
            "padding_share": 1 - real / (len(rows) * width),
            "rows": size,
            **memory.measurements(),
        }

    link.serve(run_turn)


def _plain_arguments(work: Work, *, num_rows: int, batch_size: int, use_cpu: bool, bf16: bool) -> Any:
    """Return the GRPOConfig of TRL's trainer."""
    from learner.training.trainer import GRPOConfig

    return GRPOConfig(
        output_dir=str(work.scratch / "trl"),
        max_steps=WARM_UP_STEPS + work.num_steps,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=num_rows // batch_size,
        num_generations=len(work.groups[0].completions),
        max_completion_length=MAX_COMPLETION_TOKENS,
        learning_rate=work.settings.learning_rate,
        gradient_checkpointing=False,
        use_cpu=use_cpu,
        bf16=bf16,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def rows_that_fit(num_rows: int, width: int, max_padded_tokens: int) -> int:
    """Return the largest number of rows, padded to one width, that divides the batch and fits a TRL micro-batch."""
    return max(
        size
        for size in range(1, num_rows + 1)
        if num_rows % size == 0 and (size * width <= max_padded_tokens or size == 1)
    )


class _Memory:
    """Peak memory of the process: GPU memory if it uses a GPU, else main memory."""

    def __init__(self, settings: LearnerSettings) -> None:
        import psutil
        import torch

        self._torch = torch if settings.gpus else None
        self._loaded = float(torch.cuda.memory_allocated() if settings.gpus else psutil.Process().memory_info().rss)

    def measurements(self) -> dict[str, float]:
        """Return peak MiB, and MiB before the first step."""
        peak = (
            self._torch.cuda.max_memory_allocated()
            if self._torch
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        return {"peak_mib": peak / MIB, "loaded_mib": self._loaded / MIB}


def _plan(work: Work) -> LearnerPlan:
    return LearnerPlan(
        model=work.model,
        temperature=1.0,
        max_completion_tokens=MAX_COMPLETION_TOKENS,
        max_staleness=1 << 30,
        max_steps=1 << 20,
        seed=0,
        checkpoints_dir=work.scratch / "checkpoints",
        probe_ids=(),
    )


def padded(rows: Sequence[tuple[Completion, float]], pad: int) -> dict[str, Any]:
    """Return completions and advantages as TRL's generation does: every row padded to the longest."""
    import torch

    num_prompt = max(len(completion.prompt_ids) for completion, _ in rows)
    num_completion = max(len(completion.token_ids) for completion, _ in rows)
    columns: dict[str, list[Any]] = {}
    for completion, advantage in rows:
        left, right = num_prompt - len(completion.prompt_ids), num_completion - len(completion.token_ids)
        for name, value in {
            "prompt_ids": [pad] * left + list(completion.prompt_ids),
            "prompt_mask": [0] * left + [1] * len(completion.prompt_ids),
            "completion_ids": list(completion.token_ids) + [pad] * right,
            "completion_mask": [1] * len(completion.token_ids) + [0] * right,
            "old_per_token_logps": list(completion.sampler_logprobs) + [0.0] * right,
            "advantages": advantage,
        }.items():
            columns.setdefault(name, []).append(value)
    tensors = {name: torch.tensor(values) for name, values in columns.items()}
    return tensors | {"num_items_in_batch": tensors["completion_mask"].sum().float()}

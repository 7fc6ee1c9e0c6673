"""Two ways to take GRPO steps on the same model and problems: TRL's ``GRPOTrainer`` and ``caravan train``.

Each contestant runs in its own process (``benchmarks.contestants``) and answers ``{"num_steps": n}`` with the times at which its
steps ended. TRL's trainer generates with transformers and has the usual reward function: ``ocamlc -c``, ``ocamlc -o`` and the
program, one completion after the other.
"""

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contestants import Link
from benchmarks.plain import ThreeProcesses
from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.config.model_path import model_path
from cluster.console import View
from cluster.problems.dataset import split
from cluster.run.loading import load_and_render
from cluster.types import Problem

# Roughly the rewards of the two baseline analyses: for parsing, for compiling, and for asserts that pass.
REWARDS = {"syntax_error": 0.0, "type_error": 0.1, "wrong": 0.35, "stack_overflow": 0.35, "timeout": 0.35, "right": 1.0}
POLL_SECONDS = 0.01


def plain_reward(problems: Mapping[str, Problem], spent: list[float]) -> Any:
    """A TRL reward function that runs three processes for each completion; it appends the seconds of each call to ``spent``."""
    grader = ThreeProcesses()

    def reward(completions: Sequence[str], problem_id: Sequence[str], **_: object) -> list[float]:
        began = time.perf_counter()
        rewards = []
        for text, name in zip(completions, problem_id, strict=True):
            problem = problems[name]
            rewards.append(REWARDS[grader.grade(problem, f"{problem.signature}\n{text}")])
        spent.append(time.perf_counter() - began)
        return rewards

    return reward


def plain_trl(link: Link, num_threads: int, config_file: Path) -> None:
    """Run one turn of TRL's trainer with the settings of a Caravan configuration and TRL's defaults otherwise."""
    os.environ["OMP_NUM_THREADS"] = str(
        num_threads
    )  # threads of torch; on a busy machine more threads can be much slower
    config = load_config(config_file, environment={})
    turn = _first_turn(link)
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from learner.training.build import lora_config

    rendered = load_and_render(config, View())
    training, _ = split(rendered.problems, config.data.held_out, config.data.split_seed)
    batch_size = _step_size(config)
    reward_seconds: list[float] = []
    ended_at: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ended_at.append(time.monotonic())

    learner = config.learner
    with tempfile.TemporaryDirectory() as folder:
        model = AutoModelForCausalLM.from_pretrained(model_path(config), dtype=torch.float32)
        trainer = GRPOTrainer(
            model=model,
            processing_class=AutoTokenizer.from_pretrained(model_path(config)),
            reward_funcs=plain_reward({problem.id: problem for problem in training}, reward_seconds),
            train_dataset=Dataset.from_list(
                [{"prompt": rendered.prompts[problem.id].text, "problem_id": problem.id} for problem in training]
            ),
            peft_config=lora_config(learner.lora, model, config.model.path),
            args=GRPOConfig(
                output_dir=folder,
                max_steps=turn["num_steps"],
                per_device_train_batch_size=batch_size,
                num_generations=config.rollout.group_size,
                max_completion_length=config.rollout.max_completion_tokens,
                temperature=config.rollout.temperature,
                learning_rate=learner.learning_rate,
                lr_scheduler_type=learner.lr_scheduler_type,
                loss_type=learner.loss_type,
                beta=learner.kl_coefficient,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                use_vllm=False,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=config.run.seed,
            ),
            callbacks=[Clock()],
        )
        trainer.train()
    logs = [row for row in trainer.state.log_history if "reward" in row]
    link.send(
        {
            "ended_at": ended_at,
            "completions_per_step": batch_size,
            "reward_seconds": reward_seconds,
            "tokens_per_completion": [row["completions/mean_length"] for row in logs],
            "rewards": [row["reward"] for row in logs],
        }
    )


def caravan(link: Link, settings: Sequence[str], config_file: Path) -> None:
    """Run one turn of ``caravan train`` with additional settings, observed through ``metrics.jsonl``."""
    turn = _first_turn(link)
    os.environ["RAY_ADDRESS"] = "local"  # its own Ray, independent of others on this machine
    from threading import Thread

    from cluster.cli.main import main

    with tempfile.TemporaryDirectory() as folder:
        arguments = ["train", "-c", str(config_file), f"run.folder={folder}", "run.name=bench"]
        arguments += [*settings, f"max_steps={turn['num_steps']}"]
        # Only steps are measured: no evaluation, audit or checkpoint between them.
        arguments += ["evaluation.num_problems=0", "drop_unpassable=false", "save_every_steps=100000"]
        metrics = Path(folder) / "bench" / "metrics.jsonl"
        ended_at: list[float] = []
        Thread(target=_watch, args=(metrics, ended_at, turn["num_steps"]), daemon=True).start()
        status = main(arguments)
        if status != 0:
            raise RuntimeError(f"caravan {' '.join(arguments)} ended with status {status}")
        rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    link.send(
        {
            "ended_at": ended_at,
            "completions_per_step": _step_size(load_config(config_file, environment={})),
            "metrics": rows,
        }
    )


def _watch(metrics: Path, ended_at: list[float], num_steps: int) -> None:
    """Record when each line of the metrics appears."""
    while len(ended_at) < num_steps:
        time.sleep(POLL_SECONDS)
        try:
            num_lines = metrics.read_bytes().count(b"\n")
        except FileNotFoundError:
            continue
        ended_at.extend([time.monotonic()] * (num_lines - len(ended_at)))


def _step_size(config: Config) -> int:
    return config.loop.groups_per_step * config.rollout.group_size


def _first_turn(link: Link) -> Mapping[str, Any]:
    link.send({})
    turn = link.receive()
    if turn is None:
        raise SystemExit(0)
    return turn

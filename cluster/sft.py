"""``caravan sft``: teach a base model the reference solutions of the training problems, before any reinforcement."""

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cluster.config import Config
from cluster.console import View
from cluster.passable import Verdicts, needs_audit
from cluster.placement import place, ray_cluster
from cluster.session import Interruption, Material, adapter_size, load_material, load_usable, model_path, run_to_end
from cluster.sft_pairs import pairs_of
from cluster.types import ConfigError, DatasetError, Problem
from learner.lessons import Pair, Schedule
from learner.quiet import hush

ADAPTER_FOLDER = "adapter"  # in OUT, where an adapter was trained


def sft(config: Config, out: Path, schedule: Schedule, *, full: bool) -> int:
    """Train on the solutions of the training problems, and write a whole model to ``out``, which is there complete or not at all.

    The problems are those that ``caravan train`` would train on with the same configuration, so that the held-out ones stay
    unseen. Without ``full`` a LoRA adapter is trained (``learner.lora``) and added in; ``out`` keeps it as well. Returns the exit
    code. Raises ConfigError for ``out``, DatasetError where no problem has a solution, and what the learner raises.
    """
    check_empty(out)
    hush()
    found: list[Material] = []

    async def load(view: View) -> int:
        Interruption(view)
        found.append(await _material(config, view, full=full))
        return 0

    # Training itself blocks, and is interrupted as any program is: nothing else runs beside it.
    code = run_to_end(load)
    if code == 0:
        view = View()
        _make(config, view, found[0], schedule, full=full, out=out)
        view.say(f"model: {out}; train it further with model.path={out}")
    return code


async def _material(config: Config, view: View, *, full: bool) -> Material:
    usable = load_usable(config, view)
    if not full:
        view.say(str(adapter_size(config)))
    with ExitStack() as stack:
        if needs_audit(config, usable.problems, Verdicts(None)):
            cluster = stack.enter_context(ray_cluster(view.say))
            config = place(config.without_learner(), cluster.resources, num_machines=cluster.num_machines)
        return await load_material(config, usable, view)


def check_empty(out: Path) -> None:
    """Raise ConfigError where something is there already."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not an empty folder: choose another one")


def _make(config: Config, view: View, material: Material, schedule: Schedule, *, full: bool, out: Path) -> None:
    """Train in a folder beside ``out``, which takes its place when it is whole."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
            draft = Path(scratch) / "model"
            _train(config, view, material, schedule, full=full, draft=draft, scratch=Path(scratch))
            draft.rename(out)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror or error}") from error


def solved(problems: tuple[Problem, ...]) -> list[Problem]:
    """Those that have a reference solution; raises DatasetError where none has."""
    found = [problem for problem in problems if problem.solution]
    if not found:
        raise DatasetError(
            f"none of {len(problems)} problems has a reference solution (column `solution`) to learn from"
        )
    return found


def _train(
    config: Config,
    view: View,
    material: Material,
    schedule: Schedule,
    *,
    full: bool,
    draft: Path,
    scratch: Path,
) -> None:
    import torch

    from learner.merge import write_merged
    from learner.model import Place, choose_place, load_model
    from learner.sft import fine_tune

    torch.set_num_threads(config.learner.num_threads)
    place_to_learn = choose_place(config.learner)
    # All weights are trained in float32: in bfloat16 small updates would round to nothing.
    weights = Place(use_cpu=place_to_learn.use_cpu, dtype=torch.float32) if full else place_to_learn
    model, tokenizer = load_model(model_path(config), weights)
    wanted = solved(material.training)
    pairs = pairs_of(wanted, material.prompts, tokenizer)
    without = len(material.training) - len(wanted)
    view.say(f"{len(pairs)} pairs of prompt and solution; {without} problems have no solution")
    num_steps = schedule.num_steps or _steps_of(pairs, schedule)
    losses: list[float] = []
    with view.counting("supervised steps", num_steps) as counter:

        def on_step(_: int, loss: float) -> None:
            losses.append(loss)
            counter.advance()

        trained = fine_tune(
            model,
            tokenizer,
            pairs,
            schedule,
            lora=None if full else config.learner.lora,
            place=place_to_learn,
            scratch=scratch / "trl",
            gradient_checkpointing=config.learner.gradient_checkpointing,
            on_step=on_step,
        )
    tenth = max(1, len(losses) // 10)
    first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    view.say(f"loss, in nats per token: {first:.3f} in the first {tenth} steps, {last:.3f} in the last")
    dtype = _dtype_of(model_path(config))
    if full:
        trained.to(getattr(torch, dtype)).save_pretrained(draft)
        tokenizer.save_pretrained(draft)
    else:
        trained.save_pretrained(scratch / ADAPTER_FOLDER)
        write_merged(model_path(config), scratch / ADAPTER_FOLDER, draft, dtype=dtype)
        shutil.copytree(scratch / ADAPTER_FOLDER, draft / ADAPTER_FOLDER, ignore=shutil.ignore_patterns("README.md"))


def _steps_of(pairs: list[Pair], schedule: Schedule) -> int:
    return max(1, round(len(pairs) / schedule.batch_size * schedule.num_epochs))


def _dtype_of(model: str) -> str:
    """In which the model's own weights are stored: what is made of it is stored alike."""
    from transformers import AutoConfig

    stored: Any = AutoConfig.from_pretrained(model).dtype
    return "bfloat16" if stored is None else str(stored).removeprefix("torch.")

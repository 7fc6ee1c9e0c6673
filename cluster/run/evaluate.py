"""``caravan eval`` and ``caravan sample``: try a model or an adapter on problems, without training."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.syntax import Syntax

from cluster.config.config import Config
from cluster.config.model_path import model_path
from cluster.console import View, difficulty_table, evaluation_table, output
from cluster.errors import DatasetError, ModelError, RunFolderError
from cluster.loop.evaluation import (
    LOST_PROBLEMS,
    attempt_all,
    evaluation_sampling,
    num_distinct,
    summarize,
    warning_of_lost,
)
from cluster.placement.ray_cluster import place, ray_cluster
from cluster.problems.run_data import RunData, evaluated_run
from cluster.run.session import (
    Interruption,
    Material,
    Usable,
    load_material,
    load_usable,
    read_adapter,
    samplers_and_graders,
)
from cluster.types import Group, Problem
from grader.toolchain import prepare_toolchain
from learner.settings import LORA_RANKS_OF_VLLM
from learner.training.quiet import silence_libraries

BASE_PASS_RATE = 0.20
"""Below it the first training analysis ("Test Base Model Capability") takes a stronger model or easier problems."""

TOO_WEAK = 3
"""The exit code of a base check that fails."""


async def evaluate(
    config: Config, view: View, out: Path | None, *, on: str = "held-out", base_check: bool = False
) -> int:
    """Sample and grade problems, print tables and, where ``out`` is given, write the figures as JSON.

    ``on``: "held-out" problems, those for "training", or "all". With ``base_check`` the exit code is TOO_WEAK where fewer than
    BASE_PASS_RATE of the completions pass; it is LOST_PROBLEMS where some problems could not be measured.
    """
    Interruption(view)
    if out:
        _check_writable(out)
    prepare_toolchain()
    if config.evaluation.num_problems == 0 or (on == "held-out" and config.data.held_out == 0):
        raise DatasetError("nothing to evaluate: data.held_out and evaluation.num_problems must both be at least 1")
    usable = load_usable(config, view)
    _check_adapter(config)
    name = config.model.adapter.name if config.model.adapter else Path(config.model.path).name
    with ray_cluster(view.log) as cluster:
        placed = place(config.without_learner(), cluster.resources, num_machines=cluster.num_machines)
        whole = (
            placed.changed({"data.held_out": 0}) if on == "all" else placed
        )  # a split could leave nothing to train on
        data = None if on == "all" else data_of_adapter(config, usable, view)
        material = await load_material(whole, usable, view, data=data)
        problems = _chosen(material, on)[: config.evaluation.num_problems]
        groups, reasons = await _attempt(
            placed, view, material, problems, config.evaluation.completions_per_problem, name
        )
    result = summarize(groups, name)
    if warning := warning_of_lost(result, reasons):
        view.warn(warning)
    console = output()
    console.print(evaluation_table([result], f"{config.data.dataset}: {on} problems"))
    if len(result["by_difficulty"]) > 1:
        console.print(difficulty_table(result["by_difficulty"]))
    if out:
        _write_json(out, result)
    code = _check_base(console, result["pass_rate"]) if base_check else 0
    return LOST_PROBLEMS if reasons else code


def data_of_adapter(config: Config, usable: Usable, view: View) -> RunData | None:
    """Return what the run of an adapter knows of its data: what it trained on is never evaluated as held out."""
    folder = evaluated_run(config)
    data = RunData.read(folder) if folder else None
    if folder is None or data is None:
        return None
    if not data.knows_any(usable.problems):
        return None  # another data set
    if number := len(data.split(usable.problems)[2]):
        view.log(f"{number} problems are not among those of {folder.path}: they count as training problems here")
    return data


def _chosen(material: Material, on: str) -> tuple[Problem, ...]:
    if on == "all":
        return (*material.held_out, *material.training)
    return tuple(material.training if on == "training" else material.held_out)


def _check_base(console: Console, pass_rate: float) -> int:
    found = f"base check: {pass_rate:.1%} of the completions pass"
    if pass_rate >= BASE_PASS_RATE:
        console.print(f"{found}, at least {BASE_PASS_RATE:.0%}: there is something to reinforce.", highlight=False)
        return 0
    console.print(
        f"{found}, fewer than {BASE_PASS_RATE:.0%}: most groups would teach nothing. Take a stronger model, show it more solved "
        "examples (rollout.num_few_shot), teach it the reference solutions first (`caravan sft`), or keep the problems that it "
        "sometimes solves (`caravan eval --on all --out FILE`, then `caravan filter`).",
        highlight=False,
        soft_wrap=True,
    )
    return TOO_WEAK


def _check_writable(path: Path) -> None:
    """Before the work rather than after it."""
    if not path.absolute().parent.is_dir():
        raise RunFolderError(f"cannot write {path}: there is no folder {path.parent}")


def _write_json(path: Path, result: Mapping[str, Any]) -> None:
    try:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror}") from None


async def sample(config: Config, view: View, ids: list[str], num_problems: int, num_completions: int) -> int:
    """Print graded completions of the problems with these ids, or of the first held-out ones."""
    Interruption(view)
    prepare_toolchain()
    usable = load_usable(config, view)
    _check_adapter(config)
    everything = {problem.id: problem for problem in usable.problems}
    unknown = [problem_id for problem_id in ids if problem_id not in everything]
    if unknown:
        raise DatasetError(
            f"{config.data.dataset} has no problem {unknown[0]!r}; it has, for example, {next(iter(everything))!r}"
        )
    console = output()
    with ray_cluster(view.log) as cluster:
        placed = place(config.without_learner(), cluster.resources, num_machines=cluster.num_machines)
        material = await load_material(placed, usable, view, data=data_of_adapter(config, usable, view))
        # Asked for by its id, a problem is shown even where no solution can pass it.
        asked = tuple(everything[problem_id] for problem_id in ids)
        problems = asked or (*material.held_out, *material.training)[:num_problems]
        groups, reasons = await _attempt(placed, view, material, problems, num_completions, "sample")
    for group in groups:
        console.rule(group.problem.id)
        console.print(Syntax(group.problem.prompt, "ocaml", background_color="default", word_wrap=True))
        _print_completions(console, group)
    for problem_id, reason in reasons.items():
        view.warn(f"{problem_id} has no graded completion: {reason}")
    return LOST_PROBLEMS if reasons else 0


def _check_adapter(config: Config) -> None:
    """Before anything large is started: raise ModelError where model.adapter is no adapter, or one of another model."""
    if config.model.adapter:
        _, rank = read_adapter(config.model.adapter)
        if rank > LORA_RANKS_OF_VLLM[-1]:
            raise ModelError(
                f"the adapter {config.model.adapter} has rank {rank}, and vLLM serves none above {LORA_RANKS_OF_VLLM[-1]}"
            )
        silence_libraries()
        from learner.training.targets import check_adapter

        check_adapter(model_path(config), config.model.adapter)


async def _attempt(
    config: Config, view: View, material: Material, problems: tuple[Problem, ...], num_completions: int, name: str
) -> tuple[list[Group], dict[str, str]]:
    """Sample and grade, in a Ray cluster, with the placed configuration; also why problems were lost, by their ids."""
    sampling, reasons = evaluation_sampling(config), dict[str, str]()
    if config.model.adapter:
        from rollout.merge import merged_modules

        policy, rank = read_adapter(config.model.adapter)
        rank = next(served for served in LORA_RANKS_OF_VLLM if served >= rank)
        targets = merged_modules(policy.adapter).named
    else:
        policy, rank, targets = None, config.learner.lora.r, ()
        # The base model alone needs no LoRA in the engine, which vLLM has not for every model.
        config = config.model_copy(update={"rollout": config.rollout.model_copy(update={"policy_swap": "merged"})})
    async with samplers_and_graders(
        config, view, lora_rank=rank, lora_targets=targets, special_tokens=material.special_tokens, policy=policy
    ) as (samplers, graders):
        with view.counting("problems", len(problems)) as counter:
            groups = await attempt_all(
                problems,
                material.prompts,
                samplers=samplers,
                graders=graders,
                sampling=sampling,
                completions_per_problem=num_distinct(sampling, num_completions, view.log),
                seed=config.run.seed + 1,
                name=name,
                on_done=counter.advance,
                on_lost=reasons.setdefault,
            )
            return groups, reasons


def _print_completions(console: Console, group: Group) -> None:
    for completion, grade in zip(group.completions, group.grades, strict=True):
        outcome = (
            f"{grade.facts.verdict}  reward {grade.reward:.3f}  tests {grade.facts.tests_passed}/{grade.facts.tests_total}"
            if grade
            else "could not be graded"
        )
        console.print(f"\n[bold]{completion.id}[/]  {outcome}", highlight=False)
        console.print(Syntax(completion.text.rstrip(), "ocaml", background_color="default", word_wrap=True))
        if grade and grade.facts.diagnostics:
            console.print(grade.facts.diagnostics.strip(), style="dim", highlight=False, markup=False)

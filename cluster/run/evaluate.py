"""``caravan eval`` and ``caravan sample``: a model or an adapter on problems, without training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.syntax import Syntax

from cluster.config.config import Config
from cluster.config.method import AUTO, FULL
from cluster.config.model_path import model_path
from cluster.console import View, difficulty_table, evaluation_table, output
from cluster.errors import DatasetError, RunFolderError
from cluster.loop.evaluation import (
    LOST_PROBLEMS,
    evaluation_sampling,
    lost_problems_warning,
    num_distinct,
    sample_and_grade,
    summarize,
)
from cluster.placement.ray_cluster import ray_cluster
from cluster.problems.run_data import RunData, run_of_evaluation
from cluster.protocols import GraderPool, SamplerPool
from cluster.run.interruption import interruption_of_task
from cluster.run.loading import Dataset, RenderedProblems, audit_and_split, load_and_render, problems_to_evaluate
from cluster.run.preflight import place_run
from cluster.run.session import samplers_and_graders
from cluster.types import Group, PolicyVersion, Problem, Prompt
from grader.toolchain import prepare_toolchain
from learner.adapter_folder import read_adapter
from learner.training.quiet import silence_libraries
from rollout.settings import max_lora_rank

BASE_PASS_RATE = 0.20
"""Pass rate below which the first baseline analysis ("Test Base Model Capability") takes a stronger model or easier problems."""

TOO_WEAK = 3
"""The exit code of a base check that fails."""


async def evaluate(
    config: Config, view: View, out: Path | None, *, on: str = "held-out", base_check: bool = False
) -> int:
    """Sample and grade problems, print tables and, with ``out``, write the metrics as JSON.

    ``on`` selects the "held-out" problems, those for "training", or "all". The exit code is TOO_WEAK with ``base_check`` and a
    pass rate below BASE_PASS_RATE, and LOST_PROBLEMS if some problems could not be measured.
    """
    interruption_of_task(view)
    if out:
        _check_writable(out)
    prepare_toolchain()
    if config.evaluation.num_problems == 0 or (on == "held-out" and config.data.held_out == 0):
        raise DatasetError("nothing to evaluate: data.held_out and evaluation.num_problems must both be at least 1")
    rendered = load_and_render(config, view)
    _check_adapter(config, view)
    name = config.model.adapter.name if config.model.adapter else Path(config.model.path).name
    with ray_cluster(view.log) as cluster:
        placed = place_run(config.without_learner(), cluster, view)
        # "all" needs no split, and a split that leaves nothing to train on would be refused.
        split = placed.changed({"data.held_out": 0}) if on == "all" else placed
        data = None if on == "all" else data_of_adapter(config, rendered, view)
        dataset = await audit_and_split(split, rendered, view, data=data)
        problems = _selected(config, dataset, on, view)
        groups, reasons = await _sample_and_grade(
            placed, view, dataset, problems, config.evaluation.completions_per_problem, name
        )
    result = summarize(groups, name)
    if warning := lost_problems_warning(result, reasons):
        view.warn(warning)
    console = output()
    console.print(evaluation_table([result], f"{config.data.dataset}: {on} problems"))
    if len(result.by_difficulty) > 1:
        console.print(difficulty_table(result.by_difficulty))
    if out:
        _write_json(out, result.as_row())
    code = _check_base(console, result.pass_rate) if base_check else 0
    return LOST_PROBLEMS if reasons else code


async def measure(
    config: Config,
    problems: Sequence[Problem],
    prompts: Mapping[str, Prompt],
    samplers: SamplerPool,
    graders: GraderPool,
    view: View,
    *,
    num_completions: int,
    name: str,
    title: str,
) -> tuple[list[Group], dict[str, str]]:
    """Sample and grade problems under a progress bar; returns groups, and by problem id the reasons why problems were lost."""
    sampling, reasons = evaluation_sampling(config), dict[str, str]()
    with view.counting(title, len(problems)) as counter:
        groups = await sample_and_grade(
            problems,
            prompts,
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


def data_of_adapter(config: Config, rendered: RenderedProblems, view: View) -> RunData | None:
    """The split of the run that trained an adapter, so that no training problem counts as held out; None without one."""
    folder = run_of_evaluation(config)
    data = RunData.read(folder) if folder else None
    if folder is None or data is None:
        return None
    if not data.knows_any(rendered.problems):
        return None  # another data set
    if number := len(data.split(rendered.problems)[2]):
        view.log(f"{number} problems are not among those of {folder.path}: they count as training problems here")
    return data


def _selected(config: Config, dataset: Dataset, on: str, view: View) -> Sequence[Problem]:
    if on == "held-out":
        return problems_to_evaluate(config, dataset.held_out, view)
    problems = dataset.training if on == "training" else (*dataset.held_out, *dataset.training)
    return problems[: config.evaluation.num_problems]


def _check_base(console: Console, pass_rate: float) -> int:
    found = f"base check: {pass_rate:.1%} of the completions pass"
    if pass_rate >= BASE_PASS_RATE:
        console.print(f"{found}, at least {BASE_PASS_RATE:.0%}: there is something to reinforce.", highlight=False)
        return 0
    console.print(
        f"{found}, fewer than {BASE_PASS_RATE:.0%}: most groups would teach nothing. Take a stronger model, show it more solved "
        "examples (prompt.num_few_shot), train it on the reference solutions first (`caravan sft`), or keep the problems that "
        "it sometimes solves (`caravan eval --on all --out FILE`, then `caravan filter`).",
        highlight=False,
        soft_wrap=True,
    )
    return TOO_WEAK


def _check_writable(path: Path) -> None:
    """Raise RunFolderError, before the evaluation starts, if the folder of the result does not exist."""
    if not path.absolute().parent.is_dir():
        raise RunFolderError(f"cannot write {path}: there is no folder {path.parent}")


def _write_json(path: Path, result: Mapping[str, Any]) -> None:
    try:
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"cannot write {path}: {error.strerror}") from None


async def sample(config: Config, view: View, ids: list[str], num_problems: int, num_completions: int) -> int:
    """Print graded completions of the problems with these ids, or of the first held-out ones."""
    interruption_of_task(view)
    prepare_toolchain()
    rendered = load_and_render(config, view)
    _check_adapter(config, view)
    by_id = {problem.id: problem for problem in rendered.problems}
    unknown = [problem_id for problem_id in ids if problem_id not in by_id]
    if unknown:
        raise DatasetError(
            f"{config.data.dataset} has no problem {unknown[0]!r}; it has, for example, {next(iter(by_id))!r}"
        )
    console = output()
    with ray_cluster(view.log) as cluster:
        placed = place_run(config.without_learner(), cluster, view)
        dataset = await audit_and_split(placed, rendered, view, data=data_of_adapter(config, rendered, view))
        # A problem that is given by its id is shown even if no solution can pass it.
        given = tuple(by_id[problem_id] for problem_id in ids)
        problems = given or (*dataset.held_out, *dataset.training)[:num_problems]
        groups, reasons = await _sample_and_grade(placed, view, dataset, problems, num_completions, "sample")
    for group in groups:
        console.rule(group.problem.id)
        console.print(Syntax(group.problem.prompt, "ocaml", background_color="default", word_wrap=True))
        _print_completions(console, group)
    for problem_id, reason in reasons.items():
        view.warn(f"{problem_id} has no graded completion: {reason}")
    return LOST_PROBLEMS if reasons else 0


def _check_adapter(config: Config, view: View) -> None:
    """Raise ModelError, before anything large starts, for a model.adapter that is no adapter or belongs to another model."""
    if config.learner.adapter and not config.model.adapter:
        view.log("the base model is measured; to measure the adapter of learner.adapter, give it as model.adapter")
    if config.model.adapter:
        adapter = read_adapter(config.model.adapter)
        max_lora_rank(adapter.rank)  # refuses ranks that no engine would serve
        silence_libraries()
        from learner.training.targets import base_difference, check_adapter

        check_adapter(model_path(config), adapter)
        if line := base_difference(adapter, model_path(config)):
            view.warn(line)


async def _sample_and_grade(
    config: Config, view: View, dataset: Dataset, problems: Sequence[Problem], num_completions: int, name: str
) -> tuple[list[Group], dict[str, str]]:
    """Start the pools in the Ray cluster, with the placed configuration, and measure the problems."""
    if config.model.adapter:
        adapter = read_adapter(config.model.adapter)
        policy, rank, targets = PolicyVersion(number=1, adapter=adapter.files), adapter.rank, adapter.modules
        if config.rollout.weight_sync_mode == FULL:  # of the configuration's own learner, which does not run here
            config = _with_mode(config, AUTO)
    else:
        policy, rank, targets = None, config.learner.lora.r, ()
        # The base model alone needs no LoRA in the engine; vLLM does not support LoRA for every model.
        config = _with_mode(config, "merged")
    async with samplers_and_graders(
        config, view, lora_rank=rank, lora_targets=targets, special_tokens=dataset.special_tokens, policy=policy
    ) as (samplers, graders):
        return await measure(
            config,
            problems,
            dataset.prompts,
            samplers,
            graders,
            view,
            num_completions=num_completions,
            name=name,
            title="problems",
        )


def _with_mode(config: Config, mode: str) -> Config:
    return config.model_copy(update={"rollout": config.rollout.model_copy(update={"weight_sync_mode": mode})})


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

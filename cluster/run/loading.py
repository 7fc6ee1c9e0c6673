"""Loading of a run's inputs: problems, their prompts, and the split into training and held-out problems."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from cluster.config.config import Config
from cluster.config.model_path import check_model_path
from cluster.console import View
from cluster.errors import DatasetError, ModelError
from cluster.ledger.run_folder import RunFolder
from cluster.problems.dataset import describe, load_problems
from cluster.problems.run_data import RunData, split_for_run, updated_data
from cluster.problems.solvable import AuditResults, audit_all, needs_audit, solvable_problems
from cluster.run.prompts import check_template_hash, render_prompts, with_prompt_of_run
from cluster.types import Problem, Prompt
from rollout.prompt_settings import PromptSettings

MANY_PROBLEMS = 5000  # rendering more takes seconds, and a log line announces it


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedProblems:
    """The problems of a data set with their prompts, before the audit of their tests."""

    loaded: tuple[Problem, ...]  # all of them, also those whose prompts do not fit
    problems: tuple[Problem, ...]  # those with a prompt
    prompts: Mapping[str, Prompt]  # by problem id
    special_tokens: tuple[str, ...] = ()  # of the model's tokenizer
    template_hash: str = ""  # digest of the prompt template as rendered for an example
    prompt_settings: PromptSettings = field(default_factory=PromptSettings)  # with those of the adapter's run


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """The problems of a run, audited and split."""

    training: tuple[Problem, ...]
    held_out: tuple[Problem, ...]
    prompts: Mapping[str, Prompt]  # by problem id
    data: RunData  # the content of the run's data.jsonl
    special_tokens: tuple[str, ...] = ()  # of the model's tokenizer
    unpassable: Mapping[str, str] = field(default_factory=dict)  # problem id -> reason why no solution can pass


def load_and_render(
    config: Config,
    view: View,
    check: Callable[[Sequence[Problem]], None] = lambda _problems: None,
    *,
    accept_any_hash: bool = False,
) -> RenderedProblems:
    """Load the problems and render their prompts; the log names excluded problems. ``check`` may refuse the loaded problems.

    With ``accept_any_hash`` prompts with another digest than prompt.template_hash only get a warning.
    Raises ModelError for a model without a usable tokenizer, DatasetError if no problem is left.
    """
    check_model_path(config)
    loaded = load_problems(config.data.dataset, config.data.part())
    if loaded.bad_rows:
        view.warn(loaded.describe_bad_rows())
    check(loaded.problems)
    prompted = with_prompt_of_run(config, view)
    number = len(loaded.problems)
    with view.timed(f"rendering the prompts of {number} problems") if number >= MANY_PROBLEMS else nullcontext():
        rendered = render_prompts(prompted, loaded.problems)
    for note in rendered.notes:
        view.log(f"{config.model.path}: {note}")
    check_template_hash(
        prompted, rendered, view, is_refused=config.prompt.template_hash is not None and not accept_any_hash
    )
    for cause, excluded in (
        ("their length", rendered.too_long),
        ("incomplete prompts", rendered.incomplete),
        ("being few-shot examples", rendered.with_solution),
    ):
        if excluded:
            more = f"; and {len(excluded) - 3} more" if len(excluded) > 3 else ""
            view.warn(f"{len(excluded)} problems excluded for {cause}: {'; '.join(excluded[:3])}{more}")
    if special := rendered.with_special_tokens:
        more = f"; and {len(special) - 3} more" if len(special) > 3 else ""
        view.warn(
            f"the tokenizer reads text of {len(special)} problems as special tokens: {'; '.join(special[:3])}{more}"
        )
    problems = tuple(problem for problem in loaded.problems if problem.id in rendered.prompts)
    if not problems:
        if rendered.incomplete:
            raise ModelError(f"model.path={config.model.path} has no prompt for any problem: {rendered.incomplete[0]}")
        if rendered.too_long:
            raise DatasetError(f"no problem of {config.data.dataset} fits rollout.max_prompt_tokens")
        raise DatasetError(f"{config.data.dataset} has no problem that is not an example of prompt.few_shot")
    return RenderedProblems(
        loaded=loaded.problems,
        problems=problems,
        prompts=rendered.prompts,
        special_tokens=rendered.special_tokens,
        template_hash=rendered.template_hash,
        prompt_settings=prompted.prompt,
    )


async def audit_and_split(
    config: Config, rendered: RenderedProblems, view: View, folder: RunFolder | None = None, data: RunData | None = None
) -> Dataset:
    """Exclude problems that no solution can pass, and split the others, by ``data`` if an earlier start has split them.

    Graders audit the problems, since this node may have no OCaml: call it in a Ray cluster, with the placed configuration. The
    results are kept in the run's ``folder``, so that its split stays the same. Raises DatasetError if nothing is left.
    """
    results = AuditResults(folder)
    if needs_audit(config, rendered.problems, results):
        from cluster.placement.reservations import Reservations
        from grader.pool import RayGraderPool

        graders = RayGraderPool(config.grader, reservation=Reservations(config).graders)
        try:
            await audit_all(graders, rendered.problems, results, view, num_concurrent=4 * config.grader.num_graders)
        finally:
            await graders.close()
    problems, unpassable = solvable_problems(config, rendered.problems, results, view)
    training, held_out = split_for_run(data, problems, config)
    view.log(f"{config.data.dataset}: {describe(training)} to train on, {len(held_out)} held out")
    return Dataset(
        training=tuple(training),
        held_out=tuple(held_out),
        prompts=rendered.prompts,
        data=updated_data(data, rendered.loaded, training, held_out),
        unpassable=unpassable,
        special_tokens=rendered.special_tokens,
    )


def problems_to_evaluate(config: Config, held_out: Sequence[Problem], view: View) -> Sequence[Problem]:
    """The first ``evaluation.num_problems`` of the held-out problems; a log line gives the number if there are fewer."""
    wanted = config.evaluation.num_problems
    if held_out and wanted > len(held_out):
        view.log(
            f"evaluation.num_problems={wanted}: only {len(held_out)} problems are held out, and all of them are measured "
            "(data.held_out)"
        )
    return held_out[:wanted]

"""Loading of a run's inputs: problems, their prompts, and the split into training and held-out problems."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import date

from cluster.config.config import Config
from cluster.config.model_path import check_model_path, model_path
from cluster.console import View
from cluster.errors import DatasetError, ModelError
from cluster.ledger.run_folder import RunFolder
from cluster.problems.dataset import describe, load_problems
from cluster.problems.run_data import RunData, run_of_evaluation, split_for_run, updated_data
from cluster.problems.solvable import AuditResults, audit_all, needs_audit, solvable_problems
from cluster.types import Problem, Prompt
from rollout.model import check_vocabulary
from rollout.prompt import PromptRenderer, RenderedPrompts

MANY_PROBLEMS = 5000  # rendering more takes seconds, and a log line announces it


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedProblems:
    """The problems of a data set with their prompts, before the audit of their tests."""

    loaded: tuple[Problem, ...]  # all of them, also those whose prompts do not fit
    problems: tuple[Problem, ...]  # those with a prompt
    prompts: Mapping[str, Prompt]  # by problem id
    special_tokens: tuple[str, ...] = ()  # of the model's tokenizer


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
    config: Config, view: View, check: Callable[[Sequence[Problem]], None] = lambda _problems: None
) -> RenderedProblems:
    """Load the problems and render their prompts; the log names excluded problems. ``check`` may refuse the loaded problems.

    Raises ModelError for a model without a usable tokenizer, DatasetError if no problem is left.
    """
    check_model_path(config)
    loaded = load_problems(config.data.dataset, config.data.part())
    if loaded.bad_rows:
        view.warn(loaded.describe_bad_rows())
    check(loaded.problems)
    number = len(loaded.problems)
    with view.timed(f"rendering the prompts of {number} problems") if number >= MANY_PROBLEMS else nullcontext():
        rendered = render_prompts(config, loaded.problems)
    for note in rendered.notes:
        view.log(f"{config.model.path}: {note}")
    for cause, excluded in (
        ("their length", rendered.too_long),
        ("incomplete prompts", rendered.incomplete),
    ):
        if excluded:
            more = f"; and {len(excluded) - 3} more" if len(excluded) > 3 else ""
            view.warn(f"{len(excluded)} problems excluded for {cause}: {'; '.join(excluded[:3])}{more}")
    problems = tuple(problem for problem in loaded.problems if problem.id in rendered.prompts)
    if not problems:
        if rendered.incomplete:
            raise ModelError(f"model.path={config.model.path} has no prompt for any problem: {rendered.incomplete[0]}")
        raise DatasetError(f"no problem of {config.data.dataset} fits rollout.max_prompt_tokens")
    return RenderedProblems(
        loaded=loaded.problems, problems=problems, prompts=rendered.prompts, special_tokens=rendered.special_tokens
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


def render_prompts(config: Config, problems: Sequence[Problem]) -> RenderedPrompts:
    """Render the prompts of training, evaluation and SFT; raises ModelError for a model without a usable tokenizer."""
    from transformers import AutoTokenizer, logging

    logging.set_verbosity_error()  # transformers would warn of long prompts, which are counted and excluded below

    path = model_path(config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # noqa: BLE001 - broken files make transformers and tokenizers raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"model.path={config.model.path}: no tokenizer can be loaded ({reason}). Give a local folder, a model of the Hugging "
            "Face hub (is there a network?), or 'tiny'"
        ) from None
    try:
        renderer = PromptRenderer(
            tokenizer,
            num_few_shot=config.rollout.num_few_shot,
            max_prompt_tokens=config.rollout.max_prompt_tokens,
            today=prompt_date(config),
        )
        rendered = renderer.render_all(problems)
        check_vocabulary(path, rendered.prompts.values())
        return rendered
    except ModelError as error:
        raise ModelError(f"model.path={config.model.path}: {error}") from None


def prompt_date(config: Config) -> date:
    """The date that chat templates may write: that of the configuration, else of the evaluated run, else today."""
    if config.rollout.prompt_date is not None:
        return config.rollout.prompt_date
    run = run_of_evaluation(config)
    return (run and run.prompt_date()) or date.today()

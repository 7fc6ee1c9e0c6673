"""A session: the parts of a run started together, used, and taken down again whatever happens."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.config.config import Config
from cluster.config.model_path import is_folder, model_path
from cluster.console import View, count
from cluster.errors import CaravanError, DatasetError, ModelError
from cluster.ledger.run_folder import RunFolder
from cluster.placement.scale_requests import ScalableGraderPool, ScalableSamplerPool
from cluster.problems.dataset import describe, load_problems
from cluster.problems.run_data import RunData, data_of_run, evaluated_run, split_of_run
from cluster.problems.solvable import Verdicts, audit_all, needs_audit, passable_problems
from cluster.types import PolicyVersion, Problem, Prompt
from learner.plan import LearnerPlan
from rollout.model import check_vocabulary
from rollout.preflight import Preflight, preflight
from rollout.prompt import PromptRenderer, RenderedPrompts

if TYPE_CHECKING:
    from learner.client import RayLearner

MANY_PROBLEMS = 5000  # from which on loading takes so long that a line says what goes on
INTERRUPTED = 130  # the exit code of a program that Ctrl-C ended


class Interruption:
    """Ctrl-C and SIGTERM: the first one asks politely where that is possible, the next one cancels."""

    def __init__(self, view: View) -> None:
        self.requested = asyncio.Event()
        self._polite = False
        self._view = view
        self._task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, self._interrupt)

    @contextmanager
    def politely(self) -> Iterator[None]:
        """While in the block, the first signal only sets ``requested``, for someone who looks at it."""
        self._polite = True
        try:
            yield
        finally:
            self._polite = False

    def _interrupt(self) -> None:
        if self._polite and not self.requested.is_set():
            self._view.log(
                "stopping: a step that is being learned is finished, then a checkpoint is saved; Ctrl-C again stops at once"
            )
            self.requested.set()
        elif self._task:
            self._task.cancel()


def run_to_end(work: Callable[[View], Coroutine[Any, Any, int]]) -> int:
    """Run a command in an event loop; returns its exit code. One CaravanError comes out of however many groups it is in."""
    view = View()
    try:
        return asyncio.run(work(view))
    except asyncio.CancelledError:
        view.log("interrupted")
        return INTERRUPTED
    except BaseExceptionGroup as group:
        known = group.subgroup(CaravanError)
        if known is None:
            raise
        raise first_leaf(known) from None


def first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception that is no group."""
    error = group.exceptions[0]
    return first_leaf(error) if isinstance(error, BaseExceptionGroup) else error


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a session works on."""

    training: tuple[Problem, ...]
    held_out: tuple[Problem, ...]
    prompts: Mapping[str, Prompt]  # by problem id
    data: RunData  # what a run keeps of it
    special_tokens: tuple[str, ...] = ()  # of the model's tokenizer
    unpassable: Mapping[str, str] = field(default_factory=dict)  # by problem id: why it was left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Usable:
    """The problems of a data set whose prompts fit, before anything is known of their tests."""

    loaded: tuple[Problem, ...]  # with those whose prompts do not fit
    problems: tuple[Problem, ...]
    prompts: Mapping[str, Prompt]  # by problem id
    special_tokens: tuple[str, ...] = ()  # of the model's tokenizer


def inspected(config: Config) -> AbstractAsyncContextManager[Preflight]:
    """Begin to ask vLLM about the model, beside what else is prepared."""
    lora, staleness = config.learner.lora, config.loop.max_staleness
    return preflight(config.rollout, model=model_path(config), lora_rank=lora.r, max_staleness=staleness)


async def require_served(inspection: Preflight, view: View) -> None:
    """Wait for what vLLM says of the model; raises ModelError where it refuses it."""
    if unknown := await inspection.passed():
        view.warn(f"not known before the samplers start, whether vLLM serves the model: {unknown}")


async def prove_start(
    samplers: ScalableSamplerPool, learner: "RayLearner", policy: PolicyVersion | None, view: View
) -> None:
    """Have the samplers prove the policy that the run goes on from, or else the base model, before anything is sampled."""
    if policy:
        view.log(f"going on from the checkpoint of step {policy.number}")
        await samplers.publish(policy)
    elif probe := await learner.probe():
        gap = await samplers.verify_base_model(probe)
        view.log(f"samplers and learner agree about the base model: {gap:.1e} nats per token apart at most")


def load_usable(
    config: Config, view: View, check: Callable[[Sequence[Problem]], None] = lambda _problems: None
) -> Usable:
    """Load the problems and render their prompts; says what was left out and why. ``check`` may refuse the problems."""
    loaded = load_problems(config.data.dataset, config.data.part())
    if loaded.bad_rows:
        view.warn(loaded.describe_bad_rows())
    check(loaded.problems)
    number = len(loaded.problems)
    with view.phase(f"rendering the prompts of {number} problems") if number >= MANY_PROBLEMS else nullcontext():
        rendered = render_prompts(config, loaded.problems)
    for note in rendered.notes:
        view.log(f"{config.model.path}: {note}")
    for cause, refused in (
        ("their length", rendered.too_long),
        ("prompts without all of their text", rendered.incomplete),
    ):
        if refused:
            more = f"; and {len(refused) - 3} more" if len(refused) > 3 else ""
            view.warn(f"{len(refused)} problems left out for {cause}: {'; '.join(refused[:3])}{more}")
    usable = tuple(problem for problem in loaded.problems if problem.id in rendered.prompts)
    if not usable:
        if rendered.incomplete:
            raise ModelError(f"model.path={config.model.path} has no prompt for any problem: {rendered.incomplete[0]}")
        raise DatasetError(f"no problem of {config.data.dataset} fits rollout.max_prompt_tokens")
    return Usable(
        loaded=loaded.problems, problems=usable, prompts=rendered.prompts, special_tokens=rendered.special_tokens
    )


async def load_material(
    config: Config, usable: Usable, view: View, folder: RunFolder | None = None, data: RunData | None = None
) -> Material:
    """Leave out what no solution can pass, and split the rest, as ``data`` has it where that is given.

    Graders judge it, since this node may have no OCaml: to be called in a Ray cluster, with the placed configuration. A
    run's ``folder`` keeps the verdicts, so that its split stays the same. Raises DatasetError where nothing is left.
    """
    verdicts = Verdicts(folder)
    if needs_audit(config, usable.problems, verdicts):
        from cluster.placement.reservations import Reservations
        from grader.pool import RayGraderPool

        graders = RayGraderPool(config.grader, reservation=Reservations(config).graders)
        try:
            await audit_all(graders, usable.problems, verdicts, view, at_once=4 * config.grader.num_graders)
        finally:
            await graders.close()
    problems, unpassable = passable_problems(config, usable.problems, verdicts, view)
    training, held_out = split_of_run(data, problems, config)
    view.log(f"{config.data.dataset}: {describe(training)} to train on, {len(held_out)} held out")
    return Material(
        training=tuple(training),
        held_out=tuple(held_out),
        prompts=usable.prompts,
        data=data_of_run(data, usable.loaded, training, held_out),
        unpassable=unpassable,
        special_tokens=usable.special_tokens,
    )


def render_prompts(config: Config, problems: Sequence[Problem]) -> RenderedPrompts:
    """Render the prompts of training, evaluation and supervised training. Raises ModelError where the tokenizer has none."""
    from transformers import AutoTokenizer, logging

    logging.set_verbosity_error()  # it would warn of long prompts, which are refused and counted below

    path = model_path(config)
    if is_folder(path) and not Path(path).expanduser().is_dir():
        raise ModelError(f"model.path={config.model.path}: there is no such folder")
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
    """The date that chat templates may write: the configuration's, else that of the run that is evaluated, else today's."""
    if config.rollout.prompt_date is not None:
        return config.rollout.prompt_date
    run = evaluated_run(config)
    return (run and run.prompt_date()) or date.today()


def read_adapter(folder: Path) -> tuple[PolicyVersion, int]:
    """A PEFT adapter folder as a policy, and its rank; raises ModelError where it is none."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        files = {name: (folder / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")}
        return PolicyVersion(number=1, adapter=files), int(config["r"])
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder} is no LoRA adapter in PEFT format: {error}") from None


@asynccontextmanager
async def samplers_and_graders(
    config: Config,
    view: View,
    *,
    lora_rank: int,
    lora_targets: Sequence[str],
    special_tokens: tuple[str, ...],
    policy: PolicyVersion | None = None,
) -> AsyncIterator[tuple[ScalableSamplerPool, ScalableGraderPool]]:
    """Start both pools, side by side; both are stopped when the block is left, whatever happened in it."""
    from cluster.placement.reservations import Reservations
    from grader.pool import RayGraderPool
    from rollout.pool import RaySamplerPool

    reservations = Reservations(config, view.log)
    samplers = RaySamplerPool(
        config.rollout,
        model=model_path(config),
        lora_rank=lora_rank,
        lora_targets=lora_targets,
        max_staleness=config.loop.max_staleness,
        reservation=reservations.samplers,
        tell=view.log,
    )
    graders = RayGraderPool(
        config.grader, reservation=reservations.graders, tell=view.log, special_tokens=special_tokens
    )
    try:
        parts = f"{count(config.rollout.num_samplers, 'sampler')} and {count(config.grader.num_graders, 'grader')}"
        with view.phase(f"starting {parts}"):
            _, walls = await asyncio.gather(samplers.start(policy), graders.start())
        view.log(walls)
        yield samplers, graders
    finally:
        await asyncio.gather(samplers.close(), graders.close())


def learner_plan(config: Config, *, max_steps: int, probe_ids: tuple[int, ...], checkpoints_dir: Path) -> LearnerPlan:
    """What the learner has to know of the run; ``probe_ids`` are tokens that it scores under every policy."""
    return LearnerPlan(
        model=model_path(config),
        temperature=config.rollout.temperature,
        max_completion_tokens=config.rollout.max_completion_tokens,
        max_staleness=config.loop.max_staleness,
        max_steps=max_steps,
        seed=config.run.seed,
        checkpoints_dir=checkpoints_dir.resolve(),
        probe_ids=probe_ids,
    )

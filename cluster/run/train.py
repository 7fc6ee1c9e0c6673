"""``caravan train``: from a configuration to a trained adapter, a table and a curve."""

import asyncio
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.config.config import Config
from cluster.config.model_path import model_path
from cluster.config.schedule import LENGTH
from cluster.console import View, evaluation_table
from cluster.errors import CaravanError, ConfigError, RunFolderError
from cluster.health.command import EXIT_CODES
from cluster.health.judging import Finding
from cluster.health.rules import Health
from cluster.health.watch import watch_of
from cluster.ledger.run_folder import RunFolder
from cluster.loop.driver import Driver
from cluster.loop.evaluation import (
    LOST_PROBLEMS,
    attempt_all,
    evaluation_sampling,
    num_distinct,
    summarize,
    warning_of_lost,
)
from cluster.placement.plan.machines import machines_of
from cluster.placement.plan.model_shape import shape_of, trainable_adapter
from cluster.placement.plan.places import make_plan
from cluster.placement.ray_cluster import fitted_shares, place, ray_cluster
from cluster.placement.scale_requests import answering_scale_requests
from cluster.placement.submit.lasting import is_job, require_lasting
from cluster.problems.dataset import ProblemStream
from cluster.problems.run_data import RunData, split_of_run
from cluster.protocols import GraderPool, SamplerPool
from cluster.run.curve import draw_curve
from cluster.run.gauges import Gauges
from cluster.run.recorder import RunRecords
from cluster.run.session import (
    INTERRUPTED,
    Interruption,
    Material,
    inspected,
    learner_plan,
    load_material,
    load_usable,
    prompt_date,
    prove_start,
    require_served,
    samplers_and_graders,
)
from cluster.run.trackers import Figures, Show, tracking
from cluster.types import Problem
from grader.toolchain import prepare_toolchain
from learner.training.checkpoints import best_step, forget_best_after, mark_best, newest_checkpoint, step_of
from rollout.model import check_split

if TYPE_CHECKING:
    from learner.client import RayLearner

# Learning-rate schedules that are the same in a longer run.
UNAWARE_OF_THE_LENGTH = ("constant", "constant_with_warmup", "inverse_sqrt")


async def train(config: Config, view: View, *, allow_changed_data: bool = False) -> int:
    """Train until the last step; returns the exit code. Started again, it goes on from the last checkpoint.

    It is refused with other data than it was started with, unless ``allow_changed_data``.
    """
    if config.model.adapter:
        raise ConfigError(
            f"model.adapter={config.model.adapter}: train starts from the base model; eval and sample take an adapter"
        )
    if is_job():
        require_lasting(config.run.folder)
    folder = RunFolder(config.run.folder / (config.run.name or "run"))
    config = config.dated(folder.prompt_date() or prompt_date(config))
    with folder.explained(folder.path):  # a path may be too long, or lead through a file
        _require_more_to_do(config, folder)
    with folder.opened(config):
        prepare_toolchain()  # a missing compiler should be known before anything large is loaded
        newest = newest_checkpoint(folder.checkpoints)
        data = RunData.read(folder) if newest else None
        if newest and data is None:
            view.log(f"{folder.path} does not know its data (an older Caravan started it): the split is made again")

        def check(problems: Sequence[Problem]) -> None:
            if data and (said := data.check(problems, folder.path, allowed=allow_changed_data)):
                view.log(said)

        async with inspected(config) as inspection:
            usable = load_usable(config, view, check)
            size = trainable_adapter(config)
            view.log(str(size))  # and targets that the model has not should be known before, too
            if config.rollout.tensor_parallel_size > 1:
                shape = shape_of(model_path(config))
                check_split(
                    config.model.path, config.rollout.tensor_parallel_size, heads=shape.heads, kv_heads=shape.kv_heads
                )
            split_of_run(data, usable.problems, config)  # too few should be known before, too
            # Only now: until here nothing has to be taken down, and Ctrl-C need not wait for whatever keeps the event loop.
            interruption = Interruption(view)
            with (
                tracking(config, folder, step=step_of(newest) if newest else 0) as show,
                ray_cluster(view.log) as cluster,
            ):
                folder.link_worker_logs(cluster.logs)
                try:
                    placed = place(config, cluster.resources, num_machines=cluster.num_machines)
                    if smaller := fitted_shares(config, placed):
                        view.log(smaller)
                    _say_what_may_not_fit(config, cluster.nodes, view)
                    await require_served(inspection, view)
                    material = await load_material(placed, usable, view, folder, data)
                    return await Training(placed, folder, material, view, interruption, show, size.targets).run()
                except* CaravanError:
                    view.log(f"what the parts printed themselves: {cluster.logs}/worker-*")
                    if newest := newest_checkpoint(folder.checkpoints):
                        view.log(
                            f"what was trained is kept up to step {step_of(newest)}; to go on from there: caravan train --resume "
                            f"{folder.argument}"
                        )
                    raise


def _say_what_may_not_fit(config: Config, nodes: Sequence[Mapping[str, Any]], view: View) -> None:
    """Warn of GPUs that look too small. Estimates on the careful side should not keep a run from trying."""
    machines = machines_of(nodes)
    if any(machine.gpu is not None for machine in machines):
        try:
            make_plan(config, shape_of(model_path(config)), machines)
        except CaravanError as error:
            view.warn(f"by `caravan plan`, {error}")


def _require_more_to_do(config: Config, folder: RunFolder) -> None:
    """Raise RunFolderError where the run is finished, unless it is longer now and there is something to go on from."""
    if not folder.summary.exists():
        return
    summary = json.loads(folder.summary.read_text(encoding="utf-8"))
    is_extended = config.num_steps(summary["problems"]["training"]) > summary["steps"]
    if not is_extended or newest_checkpoint(folder.checkpoints) is None:
        raise RunFolderError(
            f"{folder.path} is finished after {summary['steps']} steps: see {folder.summary} and {folder.curve}. Extend it with "
            f"`caravan train --resume {folder.argument} max_steps=MORE`, start another run with run.name=NAME, or delete the "
            "folder to train again"
        )


class Training:
    """One start of a run: fresh, or from its last checkpoint."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        material: Material,
        view: View,
        interruption: Interruption,
        show: Show,
        targets: Sequence[str] = (),
    ) -> None:
        """``show`` takes figures to the tracker; ``targets`` are the modules that the adapter trains."""
        self._targets = targets
        self._config = config
        self._folder = folder
        self._material = material
        self._view = view
        self._interruption = interruption
        self._show = show
        self._max_steps = config.num_steps(len(material.training))
        self._evaluated = material.held_out[: config.evaluation.num_problems]

    async def run(self) -> int:
        """Start the parts, evaluate, train, evaluate again, and leave the results in the run folder."""
        from learner.client import RayLearner

        config, folder, view = self._config, self._folder, self._view
        plan = learner_plan(
            config,
            max_steps=self._max_steps,
            probe_ids=self._material.prompts[self._material.training[0].id].token_ids,
            checkpoints_dir=folder.checkpoints,
        )
        learner = RayLearner(config.learner, plan)
        started = time.monotonic()
        learner_start = asyncio.create_task(learner.start())  # beside the pools: all of them load for long
        try:
            async with (
                samplers_and_graders(
                    config,
                    view,
                    lora_rank=config.learner.lora.r,
                    lora_targets=self._targets,
                    special_tokens=self._material.special_tokens,
                ) as (
                    samplers,
                    graders,
                ),
                answering_scale_requests(folder, samplers, graders, view),
            ):
                measure = partial(self._measure, samplers, graders) if config.evaluation.at_checkpoints else None
                policy = await learner_start
                progress = folder.load_progress(policy.number if policy else 0)
                folder.forget_after(progress.step)
                forget_best_after(folder.checkpoints, progress.step)
                folder.keep_config()
                self._keep_data(progress.step)
                if progress.step < self._max_steps:
                    folder.reopen(progress.step)
                await prove_start(samplers, learner, policy, view)
                if progress.step == 0:
                    await self._evaluate("before", 0, samplers, graders)
                elif measure and progress.step < self._max_steps:  # where it was interrupted before that
                    await measure(progress.step)
                watch = watch_of(folder, config)
                driver = Driver(
                    config,
                    max_steps=self._max_steps,
                    stream=ProblemStream(self._material.training, config.run.seed),
                    prompts=self._material.prompts,
                    samplers=samplers,
                    graders=graders,
                    learner=learner,
                    records=self._records(progress.step),
                    progress=progress,
                    stop=self._interruption.requested,
                    measure=measure,
                    watch=watch,
                )
                with view.training(self._max_steps, progress.step), self._interruption.politely():
                    await self._drive(driver, learner)
                if progress.step < self._max_steps:
                    if watch.stopped_for:
                        return self._stopped_for(watch.stopped_for, progress.step)
                    view.log(f"stopped after step {progress.step}; to go on: caravan train --resume {folder.argument}")
                    return INTERRUPTED
                await learner.export_adapter(folder.adapter.resolve())
                await self._evaluate("after", progress.step, samplers, graders)
                self._mark_best()
        finally:
            learner_start.cancel()
            await learner.close()
        return self._finish(progress.step, time.monotonic() - started)

    def _keep_data(self, step: int) -> None:
        """Have data.jsonl say what the run is trained on; what was measured of other data before the first step goes."""
        folder, data = self._folder, self._material.data.to_jsonl()
        if step == 0 and folder.data.exists() and folder.data.read_text(encoding="utf-8") != data:
            folder.evaluation.unlink(missing_ok=True)
        folder.write(folder.data, data)

    def _records(self, step: int) -> RunRecords:
        """Where the loop reports; they say what the run's length is where that was changed."""
        config = self._config
        gauges = Gauges(self._folder.path.name)

        def export(figures: Figures) -> None:
            gauges.show(figures)
            self._show(figures)

        records = RunRecords(self._folder, self._view, export)
        if any(key in branch.set for branch in config.branches for key in LENGTH):
            records.phase_entered(step, {key: value for key, value in config.length().items() if value is not None})
            if config.learner.lr_scheduler_type not in UNAWARE_OF_THE_LENGTH:
                self._view.log(
                    f"the learning rate goes on as in a run of {self._max_steps} steps: {config.learner.lr_scheduler_type}"
                )
        return records

    def _stopped_for(self, finding: Finding, step: int) -> int:
        """Say why the run ended before its last step."""
        self._view.warn(
            f"health.on_unhealthy={self._config.health.on_unhealthy}: stopped after step {step} for {finding.rule.id}: "
            f"{finding.judgement.evidence}. {finding.judgement.action}. To go on from here with other settings: caravan train "
            f"--resume {self._folder.argument} KEY=VALUE; without being stopped again: --resume "
            f"{self._folder.argument} on_unhealthy=warn"
        )
        return EXIT_CODES[Health.STOP]

    async def _drive(self, driver: Driver, learner: "RayLearner") -> None:
        """Train; when a part fails, try once more to keep the steps since the last checkpoint before saying so."""
        try:
            await driver.train()
        except (BaseExceptionGroup, CaravanError):
            try:
                await driver.save_checkpoint()
            except CaravanError as error:
                kept = await self._kept_adapter(learner)
                self._view.warn(f"the steps since the last checkpoint cannot be continued from: {error}. {kept}")
            raise

    async def _kept_adapter(self, learner: "RayLearner") -> str:
        """Write what was trained where there is room, and say where: the run's own folder may be on a full disk."""
        own = self._folder.path / "unsaved-adapter"
        try:
            await learner.export_adapter(own.resolve())
            return f"The adapter as it was then is in {own}"
        except CaravanError:
            pass
        try:
            other = Path(tempfile.mkdtemp(prefix="caravan-adapter-"))
            await learner.export_adapter(other)
            return f"The adapter as it was then is in {other}"
        except (CaravanError, OSError) as error:
            return f"They are lost: {error}"

    async def _measure(self, samplers: SamplerPool, graders: GraderPool, step: int) -> None:
        await self._evaluate(f"step {step}", step, samplers, graders)
        self._mark_best()

    def _mark_best(self) -> None:
        """Have the checkpoint that was measured last be kept where it is the best so far."""
        last = self._folder.evaluations()[-1:]
        if last and self._config.evaluation.at_checkpoints and not last[0].get("num_lost_problems"):
            step, reward = last[0]["step"], last[0]["reward"]
            with self._folder.explained(self._folder.checkpoints):
                if mark_best(self._folder.checkpoints, step, reward):
                    self._view.log(f"held-out reward {reward:.3f} after step {step}: the best so far")

    async def _evaluate(self, name: str, step: int, samplers: SamplerPool, graders: GraderPool) -> None:
        config = self._config
        if not self._evaluated or any(result["name"] == name for result in self._folder.evaluations()):
            return
        when = f"{name} training" if name in ("before", "after") else f"after {name}"
        sampling, reasons = evaluation_sampling(config), dict[str, str]()
        with self._view.counting(f"held-out problems {when}", len(self._evaluated)) as counter:
            groups = await attempt_all(
                self._evaluated,
                self._material.prompts,
                samplers=samplers,
                graders=graders,
                sampling=sampling,
                completions_per_problem=num_distinct(
                    sampling, config.evaluation.completions_per_problem, self._view.log
                ),
                seed=config.run.seed + 1,
                name=name,
                on_done=counter.advance,
                on_lost=reasons.setdefault,
            )
        results = {"step": step, **summarize(groups, name)}
        if warning := warning_of_lost(results, reasons):
            self._view.warn(warning)
        self._folder.append_json(self._folder.evaluation, results)
        measured = ("reward", "pass_rate", "solved_once")
        self._show({"step": step, **{f"held_out/{figure}": results[figure] for figure in measured}})

    def _finish(self, step: int, seconds: float) -> int:
        """Leave the results in the run folder and print them; returns the exit code."""
        folder, view = self._folder, self._view
        results = folder.evaluations()
        lost = sum(result.get("num_lost_problems", 0) for result in results)
        failed = sum(int(row.get("num_failed_so_far", 0)) for row in folder.rows(folder.metrics, missing_ok=True)[-1:])
        best = best_step(folder.checkpoints)
        curve = draw_curve(folder)
        material = self._material
        problems = {"training": material.training, "held_out": material.held_out, "unpassable": material.unpassable}
        summary: dict[str, Any] = {
            "steps": step,
            "seconds_of_last_start": round(seconds, 1),
            "problems": {name: len(some) for name, some in problems.items()},
            "held_out": [{key: value for key, value in one.items() if key != "by_problem"} for one in results],
            "num_lost_problems": lost,
            "num_failed_completions": failed,
            "best_step": best,
        }
        folder.write(folder.summary, json.dumps(summary, indent=2))
        all_are_few = not self._config.evaluation.at_checkpoints  # one more for each time that the run was extended
        shown = [one for one in results if all_are_few or one["name"] in ("before", "after") or one["step"] == best]
        if shown:
            view.console.print(evaluation_table(shown, f"{folder.path.name}: held-out problems"))
        for what, path in (("reward curve", curve), ("adapter", folder.adapter), ("everything", folder.path)):
            view.log(f"{what}: {path}")
        if failed:
            view.warn(f"{failed} completions were left out of the training since samplers or graders failed at them")
        for result in results:
            if warning := warning_of_lost(result):
                view.warn(f"{warning}. The adapter is whole; `caravan eval` measures it again")
        return LOST_PROBLEMS if lost else 0

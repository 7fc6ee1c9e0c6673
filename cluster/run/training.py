"""One start of a training run: its parts, its evaluations, and the results in the run folder."""

import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.config.config import LENGTH, Config
from cluster.console import View, evaluation_table
from cluster.errors import CaravanError
from cluster.health.checks import CheckResult
from cluster.health.command import EXIT_CODES
from cluster.health.monitor import monitor_of
from cluster.health.rules import Health
from cluster.ledger.progress import Progress
from cluster.ledger.run_folder import RunFolder
from cluster.loop.driver import Driver
from cluster.loop.evaluation import LOST_PROBLEMS, lost_problems_warning, summarize
from cluster.loop.parts import Hooks, Pools, TrainingProblems
from cluster.placement.scale_requests import ScalableGraderPool, ScalableSamplerPool, answering_scale_requests
from cluster.problems.dataset import ProblemStream
from cluster.protocols import GraderPool, SamplerPool
from cluster.run.base_gaps import BaseGaps, choose_probes, set_tolerance
from cluster.run.curve import draw_curve
from cluster.run.evaluate import measure
from cluster.run.gauges import Gauges
from cluster.run.initial_adapter import keep_initial_adapter
from cluster.run.interruption import INTERRUPTED, Interruption
from cluster.run.loading import Dataset, problems_to_evaluate
from cluster.run.recorder import RunRecorder
from cluster.run.session import learner_plan, samplers_and_graders
from cluster.run.trackers import Metrics, SendMetrics
from learner.training.checkpoints import best_step, forget_best_after, mark_best, newest_checkpoint

if TYPE_CHECKING:
    from learner.client import RayLearner

# Learning-rate schedules that do not depend on the number of steps.
INDEPENDENT_OF_LENGTH = ("constant", "constant_with_warmup", "inverse_sqrt")


class Training:
    """One start of a run: fresh, or from its newest checkpoint."""

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        dataset: Dataset,
        view: View,
        interruption: Interruption[asyncio.Event],
        send_metrics: SendMetrics,
        adapter_targets: Sequence[str] = (),
    ) -> None:
        """``send_metrics`` sends metrics to the tracker; ``adapter_targets`` are the modules that the adapter trains."""
        self._adapter_targets = adapter_targets
        self._config = config
        self._folder = folder
        self._dataset = dataset
        self._view = view
        self._interruption = interruption
        self._send_metrics = send_metrics
        self._gauges = Gauges(folder.path.name)
        self._max_steps = config.num_steps(len(dataset.training))
        self._evaluated = problems_to_evaluate(config, dataset.held_out, view)

    async def run(self) -> int:
        """Start the parts, evaluate, train, evaluate again, and write the results; returns the exit code."""
        from learner.client import RayLearner

        is_resumed = newest_checkpoint(self._folder.checkpoints) is not None
        saved = BaseGaps.read(self._folder) if is_resumed else None
        prompts = [self._dataset.prompts[problem.id] for problem in self._dataset.training]
        plan = learner_plan(
            self._config,
            max_steps=self._max_steps,
            probe_ids=saved.token_ids if saved else choose_probes(prompts),
            checkpoints_dir=self._folder.checkpoints,
            initial_adapter=keep_initial_adapter(self._config, self._folder),
        )
        learner = RayLearner(self._config.learner, plan)
        started_at = time.monotonic()
        if (
            self._config.learner.num_ranks > 1
        ):  # before samplers take the GPUs of the machine that has enough for all ranks
            await learner.place()
        learner_start = asyncio.create_task(learner.start())  # loads while the pools load
        try:
            if self._config.learner.shares_gpu:  # the learner first, then each sampler (docs/cluster.md)
                await learner_start
            async with (
                samplers_and_graders(
                    self._config,
                    self._view,
                    lora_rank=self._config.learner.lora.r,
                    lora_targets=self._adapter_targets,
                    special_tokens=self._dataset.special_tokens,
                ) as (samplers, graders),
                answering_scale_requests(self._folder, samplers, graders, self._view),
            ):
                policy = await learner_start
                self._view.log(await learner.describe())
                progress = self._folder.load_progress(policy.number if policy else 0)
                self._prepare_folder(progress.step)
                await set_tolerance(samplers, learner, saved, self._folder, self._config, self._view)
                if policy:  # of a checkpoint, or the initial adapter as policy 0
                    if policy.number:
                        self._view.log(f"resuming from the checkpoint of step {policy.number}")
                    await samplers.publish(policy)
                exit_code = await self._train(samplers, graders, learner, progress)
                if exit_code is not None:
                    return exit_code
        finally:
            learner_start.cancel()
            await learner.close()
        return self._finish(progress.step, time.monotonic() - started_at)

    def _prepare_folder(self, step: int) -> None:
        """Delete rows and files after ``step``, the last saved step, and write the configuration and the data."""
        self._folder.truncate_after(step)
        forget_best_after(self._folder.checkpoints, step)
        self._folder.write_config()
        self._write_data(step)
        if step < self._max_steps:
            self._folder.reopen(step)

    def _write_data(self, step: int) -> None:
        """Write data.jsonl; before the first step, evaluations of other data are deleted."""
        folder, data = self._folder, self._dataset.data.to_jsonl()
        if step == 0 and folder.data.exists() and folder.data.read_text(encoding="utf-8") != data:
            folder.evaluation.unlink(missing_ok=True)
        folder.write(folder.data, data)

    async def _train(
        self,
        samplers: ScalableSamplerPool,
        graders: ScalableGraderPool,
        learner: "RayLearner",
        progress: Progress,
    ) -> int | None:
        """Evaluate, train and evaluate again; returns the exit code of a run that stops before its last step, else None."""
        config, view = self._config, self._view
        at_checkpoint = partial(self._measure, samplers, graders) if config.evaluation.at_checkpoints else None
        if progress.step == 0:
            await self._evaluate("before", 0, samplers, graders)
        elif (
            at_checkpoint and progress.step < self._max_steps
        ):  # the run may have been interrupted before this evaluation
            await at_checkpoint(progress.step)
        monitor = monitor_of(self._folder, config)
        driver = Driver(
            config,
            Pools(samplers=samplers, graders=graders, learner=learner),
            TrainingProblems(
                stream=ProblemStream(self._dataset.training, config.run.seed), prompts=self._dataset.prompts
            ),
            Hooks(recorder=self._recorder(progress.step), evaluate=at_checkpoint, health=monitor),
            max_steps=self._max_steps,
            progress=progress,
            stop=self._interruption.requested,
        )
        with view.training(self._max_steps, progress.step), self._interruption.graceful():
            await self._drive(driver, learner)
        if progress.step < self._max_steps:
            if monitor.stopped_for:
                return self._stopped_for(monitor.stopped_for, progress.step)
            view.log(f"stopped after step {progress.step}; to resume: caravan train --resume {self._folder.argument}")
            return INTERRUPTED
        await learner.export_adapter(self._folder.final(config.learner.method).resolve())
        await self._evaluate("after", progress.step, samplers, graders)
        self._mark_best()
        return None

    def _recorder(self, step: int) -> RunRecorder:
        """Return the recorder of the loop; it records the run's length if resuming changed it."""
        config = self._config
        recorder = RunRecorder(self._folder, self._view, self._export, self._dataset.prompts)
        if any(key in override.set for override in config.resume_overrides for key in LENGTH):
            recorder.settings_changed(step, {key: value for key, value in config.length().items() if value is not None})
            if config.learner.lr_scheduler_type not in INDEPENDENT_OF_LENGTH:
                self._view.log(
                    f"the learning rate continues as in a run of {self._max_steps} steps: {config.learner.lr_scheduler_type}"
                )
        return recorder

    def _export(self, metrics: Metrics) -> None:
        """Send metrics, ``step`` included, to the tracker and to Ray."""
        self._gauges.show(metrics)
        self._send_metrics(metrics)

    def _stopped_for(self, alert: CheckResult, step: int) -> int:
        """Warn of the reason why the run ends before its last step; returns the exit code."""
        resume = f"caravan train --resume {self._folder.argument}"
        self._view.warn(
            f"health.on_unhealthy={self._config.health.on_unhealthy}: stopped after step {step} for {alert.rule.id}: "
            f"{alert.assessment.evidence}. {alert.assessment.action}. To resume with other settings: {resume} KEY=VALUE; "
            f"without being stopped again: {resume} on_unhealthy=warn"
        )
        return EXIT_CODES[Health.STOP]

    async def _drive(self, driver: Driver, learner: "RayLearner") -> None:
        """Train; when a part fails, try once to save the steps since the last checkpoint before the error is raised."""
        try:
            await driver.train()
        except (BaseExceptionGroup, CaravanError):
            try:
                await driver.save_checkpoint()
            except CaravanError as error:
                kept = await self._keep_weights(learner)
                self._view.warn(f"the steps since the last checkpoint cannot be resumed from: {error}. {kept}")
            raise

    async def _keep_weights(self, learner: "RayLearner") -> str:
        """Write the weights where there is space, since the run's own disk may be full; returns a sentence that says where."""
        kind = self._folder.final(self._config.learner.method).name
        own = self._folder.path / f"unsaved-{kind}"
        try:
            await learner.export_adapter(own.resolve())
            return f"The {kind} after these steps is in {own}"
        except CaravanError:
            pass
        try:
            other = Path(tempfile.mkdtemp(prefix=f"caravan-{kind}-"))
            await learner.export_adapter(other)
            return f"The {kind} after these steps is in {other}"
        except (CaravanError, OSError) as error:
            return f"They are lost: {error}"

    async def _measure(self, samplers: SamplerPool, graders: GraderPool, step: int) -> None:
        await self._evaluate(f"step {step}", step, samplers, graders)
        self._mark_best()

    def _mark_best(self) -> None:
        """Mark the checkpoint of the last evaluation if it is the best so far; the best one is kept."""
        last = self._folder.evaluations()[-1:]
        if last and self._config.evaluation.at_checkpoints and not last[0].num_lost_problems:
            step, reward = last[0].step or 0, last[0].reward
            with self._folder.explain_errors(self._folder.checkpoints):
                if mark_best(self._folder.checkpoints, step, reward):
                    self._view.log(f"held-out reward {reward:.3f} after step {step}: the best so far")

    async def _evaluate(self, name: str, step: int, samplers: SamplerPool, graders: GraderPool) -> None:
        if not self._evaluated or any(result.name == name for result in self._folder.evaluations()):
            return
        when = f"{name} training" if name in ("before", "after") else f"after {name}"
        groups, reasons = await measure(
            self._config,
            self._evaluated,
            self._dataset.prompts,
            samplers,
            graders,
            self._view,
            num_completions=self._config.evaluation.completions_per_problem,
            name=name,
            title=f"held-out problems {when}",
        )
        result = summarize(groups, name, step)
        if warning := lost_problems_warning(result, reasons):
            self._view.warn(warning)
        self._folder.append_json(self._folder.evaluation, result.as_row())
        shown = ("reward", "pass_rate", "solved_once")
        self._export({"step": step, **{f"held_out/{metric}": getattr(result, metric) for metric in shown}})

    def _finish(self, step: int, seconds: float) -> int:
        """Write summary and curve, print the results, and return the exit code."""
        folder, view = self._folder, self._view
        evaluations = folder.evaluations()
        num_lost = sum(result.num_lost_problems for result in evaluations)
        last_row = folder.rows(folder.metrics, missing_ok=True)[-1:]
        num_failed = sum(int(row.get("num_failed_so_far", 0)) for row in last_row)
        best = best_step(folder.checkpoints)
        curve = draw_curve(folder)
        dataset = self._dataset
        problems = {"training": dataset.training, "held_out": dataset.held_out, "unpassable": dataset.unpassable}
        summary: dict[str, Any] = {
            "steps": step,
            "seconds_of_last_start": round(seconds, 1),
            "problems": {name: len(some) for name, some in problems.items()},
            "held_out": [
                {key: value for key, value in row.items() if key != "by_problem"}
                for row in folder.rows(folder.evaluation, missing_ok=True)
            ],
            "num_lost_problems": num_lost,
            "num_failed_completions": num_failed,
            "best_step": best,
        }
        folder.write(folder.summary, json.dumps(summary, indent=2))
        # Without evaluations at checkpoints there are two, and one more for each extension of the run.
        show_all = not self._config.evaluation.at_checkpoints
        shown = [
            evaluation
            for evaluation in evaluations
            if show_all or evaluation.name in ("before", "after") or evaluation.step == best
        ]
        if shown:
            view.console.print(evaluation_table(shown, f"{folder.path.name}: held-out problems"))
        final = folder.final(self._config.learner.method)
        for name, path in (("reward curve", curve), (final.name, final), ("everything", folder.path)):
            view.log(f"{name}: {path}")
        if num_failed:
            view.warn(f"{num_failed} completions were excluded from training: samplers or graders failed at them")
        for result in evaluations:
            if warning := lost_problems_warning(result):
                view.warn(f"{warning}. The result is complete; `caravan eval` measures it again")
        return LOST_PROBLEMS if num_lost else 0

"""``make bench-pipeline``: the real driver with simulated samplers, graders and learner, at many sizes.

From 1 to 256 samplers and 8 to 4,096 graders, in virtual time (``benchmarks.virtual_time``), with service times that were
measured (``benchmarks.service_times``). For each size: busy share and waiting time of each part, staleness of the
trained completions, and the part with the least spare capacity.

A run has one learner and one driver, and each keeps up with a limited number of samplers. To show the limits of the other parts,
most sizes have as many learners and drivers as the samplers need (ideal data parallelism). The last two tables have one driver
or one learner, as Caravan has. The loop itself is real: its CPU time per completion, the simulation's own included, is measured.
"""

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.harness import Log, measure_and_print, option_parser
from benchmarks.pipeline_tables import tables
from benchmarks.service_times import TINY_ON_CPU, ServiceTimes
from benchmarks.simulated import (
    DriverTime,
    SimulatedGraders,
    SimulatedLearner,
    SimulatedSamplers,
    now,
)
from benchmarks.virtual_time import simulate
from cluster.config.load import load_config
from cluster.health.monitor import Response
from cluster.ledger.outcomes import DroppedGroup
from cluster.ledger.progress import Progress
from cluster.loop.driver import Driver
from cluster.loop.parts import Hooks, Pools, TrainingProblems
from cluster.problems.dataset import ProblemStream
from cluster.types import Group, Problem, Prompt, StepReport, WeightSync

GROUP_SIZE = 8
FILLINGS = 2.0
"""Groups per step, as a multiple of those that fill the samplers; above 1, since some groups are always graded or buffered."""
SETTLING_STEPS = 2  # first steps, in which the pipeline fills; not counted
LOAD = 0.5  # busy share of learners and drivers if there are as many as needed


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A simulated size."""

    samplers: int
    graders: int
    allowed_staleness: int = 1  # loop.max_staleness
    fillings: float = FILLINGS
    one_learner: bool = False  # else as many as the samplers need
    one_driver: bool = False  # else as many as the samplers need

    def groups_per_step(self, times: ServiceTimes) -> int:
        """Return the number of groups per step."""
        return max(1, round(self.fillings * self.samplers * times.max_running / GROUP_SIZE))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """Results of a simulation. Shares are 0 to 1, over all replicas of a part and the counted time."""

    sampler_busy: float  # share of the time in which samplers have work
    sampler_output: float  # tokens sampled, as a share of those of always full samplers
    grader_busy: float
    learner_busy: float
    driver_busy: float
    learners: float
    drivers: float
    learner_waits_seconds: float  # per step
    step_seconds: float
    completions_per_second: float
    mean_staleness: float
    max_staleness: int
    stale_share: float  # share of the finished groups that were stale
    saturated: str  # the part with the least spare capacity
    loop_cpu_us: float  # real CPU time per completion, of the loop and the simulation
    real_seconds: float


@dataclass(slots=True)
class CountingRecorder:
    """A Recorder that only counts groups."""

    num_stale: int = 0
    num_trained: int = 0

    def group_dropped(self, dropped: DroppedGroup, step: int) -> None:
        """Count a stale group; nothing is filtered here."""
        del dropped, step
        self.num_stale += 1

    def step_done(
        self,
        epoch: float,
        groups: Sequence[Group],
        report: StepReport,
        metrics: Mapping[str, float],
        active_overrides: Mapping[str, Any],
    ) -> None:
        """Count the groups."""
        del epoch, report, metrics, active_overrides
        self.num_trained += len(groups)

    def settings_changed(self, step: int, values: Mapping[str, Any]) -> None:
        """Do nothing: the simulation has no schedule."""

    def health_checked(self, step: int, response: Response) -> None:
        """Do nothing: health is not checked."""

    def policy_published(self, version: int, syncs: Sequence[WeightSync], began_at: float, seconds: float) -> None:
        """Do nothing."""

    def filter_suspended(self, step: int) -> None:
        """Do nothing: there is no filter."""

    def save_progress(self, step: int, state: str) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Totals at one moment of a simulation, in seconds."""

    at: float
    samplers: float  # busy seconds, summed over samplers
    output: float  # seconds that full samplers need for the same tokens
    graders: float
    learner: float
    driver: float
    cpu: float
    num_graded: int


class Pipeline:
    """A run of one size in which everything but the driver is simulated."""

    def __init__(self, size: Size, times: ServiceTimes, num_steps: int, seed: int = 0) -> None:
        """``num_steps`` are counted after the first ``SETTLING_STEPS``."""
        self._size = size
        self._num_steps = num_steps
        self._num_groups = size.groups_per_step(times)
        self._seed = seed
        self._learners = 1.0 if size.one_learner else num_at_load(size.samplers / times.samplers_per_learner)
        self._drivers = 1.0 if size.one_driver else num_at_load(size.samplers / times.samplers_per_driver)
        self._time = DriverTime(self._drivers)
        self._samplers = SimulatedSamplers(size.samplers, times, self._time, seed, on_publish=self._record_moment)
        self._graders = SimulatedGraders(size.graders, times, self._time, seed)
        self._learner = SimulatedLearner(times, self._learners)
        self._recorder = CountingRecorder()
        self._moments: list[Moment] = []  # totals when each policy was loaded

    async def run(self) -> Measurements:
        """Run to the end, in virtual time."""
        began = time.perf_counter()
        # The last steps, in which nothing is left to sample, are not counted.
        max_steps = SETTLING_STEPS + self._num_steps + self._size.allowed_staleness + 1
        overrides = [
            f"loop.groups_per_step={self._num_groups}",
            f"loop.max_staleness={self._size.allowed_staleness}",
            f"loop.save_every_steps={max_steps}",
            f"rollout.group_size={GROUP_SIZE}",
        ]
        problem = Problem(id="p", statement="", signature="let f (n : int) : int =", tests="")
        driver = Driver(
            load_config(None, overrides, environment={}),
            Pools(samplers=self._samplers, graders=self._graders, learner=self._learner),
            TrainingProblems(
                stream=ProblemStream([problem], self._seed),
                prompts={"p": Prompt(problem_id="p", text="", token_ids=())},
            ),
            Hooks(recorder=self._recorder),
            max_steps=max_steps,
            progress=Progress(),
            stop=asyncio.Event(),
        )
        await driver.train()
        return self._measurements(time.perf_counter() - began)

    def _record_moment(self) -> None:
        busy, output = self._samplers.busy_and_output_seconds()
        self._moments.append(
            Moment(
                at=now(),
                samplers=busy,
                output=output,
                graders=self._graders.usage().busy_seconds,
                learner=self._learner.busy_seconds,
                driver=self._time.busy_seconds,
                cpu=time.process_time(),
                num_graded=self._graders.num_graded,
            )
        )

    def _measurements(self, real_seconds: float) -> Measurements:
        first, last = self._moments[SETTLING_STEPS - 1], self._moments[SETTLING_STEPS - 1 + self._num_steps]
        seconds, size = last.at - first.at, self._size
        completions = last.num_graded - first.num_graded
        shares = {
            "samplers": (last.output - first.output) / (size.samplers * seconds),
            "graders": (last.graders - first.graders) / (size.graders * seconds),
            "learner": (last.learner - first.learner) / seconds,
            "driver": (last.driver - first.driver) / seconds,
        }
        staleness = self._learner.staleness[SETTLING_STEPS * self._num_groups * GROUP_SIZE :]
        return Measurements(
            sampler_busy=(last.samplers - first.samplers) / (size.samplers * seconds),
            sampler_output=shares["samplers"],
            grader_busy=shares["graders"],
            learner_busy=shares["learner"],
            driver_busy=shares["driver"],
            learners=self._learners,
            drivers=self._drivers,
            learner_waits_seconds=(1 - shares["learner"]) * seconds / self._num_steps,
            step_seconds=seconds / self._num_steps,
            completions_per_second=completions / seconds,
            mean_staleness=statistics.fmean(staleness),
            max_staleness=max(staleness),
            stale_share=self._recorder.num_stale / (self._recorder.num_stale + self._recorder.num_trained),
            saturated=max(shares, key=lambda part: shares[part]),
            loop_cpu_us=1e6 * (last.cpu - first.cpu) / completions,
            real_seconds=real_seconds,
        )


def num_at_load(needed: float) -> float:
    """Return the number of learners or drivers, at least 1, with a busy share of ``LOAD``; ``needed`` have a busy share of 1."""
    return max(1.0, needed / LOAD)


def sizes(quick: bool) -> dict[str, list[Size]]:
    """Return the simulated sizes by title."""
    many = (1, 16, 64) if quick else (1, 4, 16, 64, 256)
    graders = (8, 64, 4096) if quick else (8, 64, 512, 4096)
    ladder = (4, 16, 256) if quick else (4, 8, 16, 32, 64, 128, 256)
    limits = (4, 16, 64) if quick else (2, 4, 8, 16, 32, 64, 128)
    return {
        "1 grader per 4 samplers": [Size(samplers=samplers, graders=samplers // 4) for samplers in ladder],
        "from 8 to 4,096 graders": [Size(samplers=samplers, graders=number) for samplers in many for number in graders],
        "staleness and size of a step": [
            Size(samplers=16, graders=4, allowed_staleness=staleness, fillings=fillings)
            for fillings in (1.0, 2.0, 4.0)
            for staleness in (0, 1, 2, 4)
        ],
        "one driver, as Caravan has": [
            Size(samplers=samplers, graders=samplers, one_driver=True) for samplers in limits
        ],
        "one learner, as Caravan has": [
            Size(samplers=samplers, graders=samplers, one_learner=True) for samplers in limits
        ],
    }


def run(times: ServiceTimes, quick: bool, log: Log) -> dict[str, Any]:
    """Simulate every size and return the result."""
    found: dict[str, list[dict[str, Any]]] = {}
    simulated: dict[Size, dict[str, Any]] = {}
    for title, sizes_of_table in sizes(quick).items():
        for size in sizes_of_table:
            log(f"{title}: {size.samplers} samplers, {size.graders} graders, staleness {size.allowed_staleness}")
            if size not in simulated:
                # Few steps are enough for a large run: each has thousands of completions.
                num_steps = 3 if quick or size.samplers > 32 else 8
                measurements = simulate(Pipeline(size, times, num_steps).run())
                simulated[size] = {
                    "groups_per_step": size.groups_per_step(times),
                    **asdict(size),
                    **asdict(measurements),
                }
        found[title] = [simulated[size] for size in sizes_of_table]
    return {
        "times": times.name,
        "completions_per_second_of_a_full_sampler": times.completions_per_second,
        "tokens_per_completion": times.mean_tokens,
        "graders_per_sampler": times.graders_per_sampler,
        "samplers_per_learner": times.samplers_per_learner,
        "samplers_per_driver": times.samplers_per_driver,
        "sizes": found,
    }


def main() -> None:
    """Run the command."""
    parser = option_parser("bench-pipeline", __doc__)
    parser.add_argument("--quick", action="store_true", help="about 2 minutes instead of 8: fewer sizes and steps")
    options = parser.parse_args()
    measure_and_print(lambda log: run(TINY_ON_CPU, options.quick, log), tables)


if __name__ == "__main__":
    main()

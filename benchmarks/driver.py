"""``make bench-driver``: CPU time of the driver's process per completion.

The real driver, buffer, recorder, pools and client of the learner over real Ray, with actors that answer at once
(``benchmarks.driver_stubs``): the driver is the only part that works. CPU time is that of the whole process, Ray's threads
included, over the steps between the first and the last ones of a run. Each size is run several times in alternation, and results
are medians.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.driver_meter import Moment, Profile, TimedRecorder, Traffic
from benchmarks.driver_stubs import stub_actors
from benchmarks.harness import Log, measure_and_print, option_parser, rotated
from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.console import View
from cluster.ledger.progress import Progress
from cluster.ledger.run_folder import RunFolder
from cluster.loop.driver import Driver
from cluster.loop.parts import Hooks, Pools, TrainingProblems
from cluster.problems.builtin import builtin_problems
from cluster.problems.dataset import ProblemStream
from cluster.types import Problem, Prompt

TOKENS = (32, 256, 1024)
GROUP_SIZES = (8, 16)
NUM_PROBLEMS = 64
SETTLING_STEPS = 2  # first steps of a run, in which caches and pipeline fill; not measured
COUNTED_STEPS = 3  # next steps, in which the traffic is counted
NUM_SAMPLERS = 2
NUM_GRADERS = 2
NUM_COSTS = 5  # of the profile
EXAMPLES = """examples:
  make bench-driver                                      # every size, three rounds
  make bench-driver OPTIONS=--quick                      # one round with fewer steps
  make bench-driver OPTIONS="--quick --profile"          # and the five largest costs
  make bench-driver OPTIONS="--tokens 1024 --rounds 5"   # one length, more precise
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A measured size."""

    tokens: int  # per completion
    group_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Amount of measurement."""

    rounds: int
    steps: int  # measured steps per run
    completions_per_step: int = 128


class Bench:
    """Pools and learner that serve one run after the other; policy numbers and stream positions go up through all of them."""

    def __init__(self, pools: Pools, effort: Effort, folder: Path) -> None:
        self._pools = pools
        self._effort = effort
        self._folder = folder
        self._progress = Progress()
        self._num_runs = 0
        self._problems = [problem for problem in builtin_problems() if problem.solution][:NUM_PROBLEMS]
        self._prompts = {problem.id: _prompt(problem) for problem in self._problems}

    async def run(self, size: Size, profile: Profile | None) -> dict[str, float]:
        """Run one size and return its measurements."""
        self._num_runs += 1
        config = _config(size, self._effort)
        first = self._progress.step + SETTLING_STEPS
        counted, last = first + COUNTED_STEPS, first + COUNTED_STEPS + self._effort.steps
        moments: dict[int, Moment] = {}
        traffic = Traffic()
        with ExitStack() as stack, ExitStack() as meters:

            def on_step(step: int, moment: Moment) -> None:
                moments[step] = moment
                if step == first:
                    meters.enter_context(traffic.counting())
                elif step in (counted, last):
                    meters.close()
                    if step == counted and profile is not None:
                        meters.enter_context(profile.sampling())

            view = View()
            view.console.quiet = True
            run_folder = stack.enter_context(RunFolder(self._folder / f"run-{self._num_runs}").opened(config))
            driver = Driver(
                config,
                self._pools,
                TrainingProblems(stream=ProblemStream(self._problems, 0), prompts=self._prompts),
                Hooks(recorder=TimedRecorder(run_folder, view, self._prompts, on_step)),
                # In the last steps nothing is left to sample.
                max_steps=last + config.loop.max_staleness + 1,
                progress=self._progress,
                stop=asyncio.Event(),
            )
            await driver.train()
        return measurements(
            moments[counted], moments[last], traffic, moments[counted].num_completions - moments[first].num_completions
        )


def measurements(before: Moment, after: Moment, traffic: Traffic, num_counted: int) -> dict[str, float]:
    """Return figures per completion between two moments; ``num_counted`` completions made the traffic."""
    number = after.num_completions - before.num_completions
    return {
        "cpu_ms": 1e3 * (after.cpu - before.cpu) / number,
        "main_thread_ms": 1e3 * (after.main - before.main) / number,
        "ledger_ms": 1e3 * (after.ledger - before.ledger) / number,
        "completions_per_second": number / (after.at - before.at),
        "calls": traffic.calls / num_counted,
        "results": traffic.results / num_counted,
        "bytes_sent": traffic.bytes_sent / num_counted,
        "bytes_received": traffic.bytes_received / num_counted,
    }


@asynccontextmanager
async def started_pools(folder: Path) -> AsyncIterator[Pools]:
    """Start the real pools and the real client of the learner, with stub actors, on a Ray of its own."""
    import ray

    from cluster.placement.local_ray import provide_token, start_ray
    from cluster.run.session import learner_plan
    from grader.pool import RayGraderPool
    from learner.client import RayLearner
    from rollout.pool import RaySamplerPool

    config = _config(Size(tokens=max(TOKENS), group_size=max(GROUP_SIZES)), Effort(rounds=1, steps=1))
    provide_token()
    start_ray(num_cpus=16, object_store_memory=1 << 29, include_dashboard=False, log_to_driver=False)
    try:
        with stub_actors():
            samplers = RaySamplerPool(
                config.rollout, model="stub", lora_rank=8, max_staleness=config.loop.max_staleness
            )
            graders = RayGraderPool(config.grader)
            plan = learner_plan(config, max_steps=1, probe_ids=(), checkpoints_dir=folder / "checkpoints")
            learner = RayLearner(config.learner, plan)
            parts = (samplers, graders, learner)
            try:
                await asyncio.gather(*(part.start() for part in parts))
                yield Pools(samplers=samplers, graders=graders, learner=learner)
            finally:
                await asyncio.gather(*(part.close() for part in parts))
    finally:
        ray.shutdown()


def _config(size: Size, effort: Effort) -> Config:
    overrides = (
        "model.path=tiny",
        f"loop.groups_per_step={effort.completions_per_step // size.group_size}",
        "loop.max_staleness=1",
        "loop.save_every_steps=1000000",
        f"rollout.group_size={size.group_size}",
        f"rollout.max_completion_tokens={size.tokens}",
        f"rollout.num_samplers={NUM_SAMPLERS}",
        f"grader.num_graders={NUM_GRADERS}",
    )
    return load_config(None, overrides, environment={})


def _prompt(problem: Problem) -> Prompt:
    text = problem.prompt
    return Prompt(problem_id=problem.id, text=text, token_ids=tuple(range(len(text) // 3)), template_hash="0" * 16)


def sizes(tokens: Sequence[int]) -> list[Size]:
    """Return the measured sizes."""
    return [Size(tokens=number, group_size=group_size) for number in tokens for group_size in GROUP_SIZES]


async def measure(measured: Sequence[Size], effort: Effort, profile: Profile | None, log: Log) -> dict[str, Any]:
    """Measure every size in alternation and return the result."""
    found: dict[Size, list[dict[str, float]]] = {size: [] for size in measured}
    with tempfile.TemporaryDirectory(prefix="bench-driver-") as temporary:
        folder = Path(temporary)
        log("starting Ray and the stub actors")
        async with started_pools(folder) as pools:
            bench = Bench(pools, effort, folder)
            for number in range(effort.rounds):
                for size in rotated(measured, number):
                    log(f"round {number + 1} of {effort.rounds}: {size.tokens} tokens, group size {size.group_size}")
                    found[size].append(await bench.run(size, profile))
    return result_of(found, profile)


def result_of(found: Mapping[Size, Sequence[Mapping[str, float]]], profile: Profile | None) -> dict[str, Any]:
    """Return the result: medians over the rounds."""
    rows = [
        {
            "tokens": size.tokens,
            "group_size": size.group_size,
            **{key: statistics.median(one[key] for one in rounds) for key in rounds[0]},
            "lowest_cpu_ms": min(one["cpu_ms"] for one in rounds),
            "highest_cpu_ms": max(one["cpu_ms"] for one in rounds),
        }
        for size, rounds in found.items()
    ]
    by_tokens = {
        str(tokens): statistics.fmean(row["cpu_ms"] for row in rows if row["tokens"] == tokens)
        for tokens in dict.fromkeys(size.tokens for size in found)
    }
    result: dict[str, Any] = {
        "driver_ms_per_completion": by_tokens,  # mean over the group sizes
        "overhead_ms_per_completion": statistics.fmean(by_tokens.values()),
        "sizes": rows,
        "cores": os.cpu_count(),
    }
    if profile is not None:
        cpu_ms, main_ms = (statistics.fmean(row[key] for row in rows) for key in ("cpu_ms", "main_thread_ms"))
        result["largest_costs"] = [
            {"function": function, "module": module, "ms_per_completion": ms, "share": ms / cpu_ms}
            for function, module, ms in profile.largest(NUM_COSTS, main_ms=main_ms, other_ms=cpu_ms - main_ms)
        ]
    return result


def tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """Yield the tables of a result."""
    table = Table(title="CPU time of the driver's process per completion, in ms")
    for name in ("tokens", "group", "CPU", "main", "ledger", "per s", "calls", "results", "KB out", "KB in"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result["sizes"]:
        table.add_row(
            f"{row['tokens']:,}",
            str(row["group_size"]),
            f"{row['cpu_ms']:.2f}",
            f"{row['main_thread_ms']:.2f}",
            f"{row['ledger_ms']:.2f}",
            f"{row['completions_per_second']:.0f}",
            f"{row['calls']:.2f}",
            f"{row['results']:.2f}",
            f"{row['bytes_sent'] / 1e3:.1f}",
            f"{row['bytes_received'] / 1e3:.1f}",
        )
    table.caption = (
        "CPU: all threads, Ray's included; main: the driver's own thread; ledger: the\nrecorder, in main; per s: completions; "
        "calls, results: Ray calls sent, objects\nreceived; KB: serialized"
    )
    yield table
    if "largest_costs" in result:
        costs = Table(title="The largest costs, over all sizes")
        for name in ("function of the project", "in module", "share", "ms"):
            costs.add_column(name, justify="right" if name in ("share", "ms") else "left")
        for cost in result["largest_costs"]:
            costs.add_row(cost["function"], cost["module"], f"{cost['share']:.0%}", f"{cost['ms_per_completion']:.2f}")
        yield costs


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = option_parser("bench-driver", __doc__)
    parser.epilog, parser.formatter_class = EXAMPLES, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="about 2 minutes instead of 6: one round, fewer steps")
    parser.add_argument("--profile", action="store_true", help=f"print the {NUM_COSTS} largest costs of the process")
    parser.add_argument(
        "--tokens",
        type=int,
        nargs="+",
        choices=TOKENS,
        default=TOKENS,
        metavar="N",
        help="only these lengths of %(choices)s",
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="runs of each size (default 3; with --quick 1)")
    return parser.parse_args()


def main() -> None:
    """Run the command."""
    options = parse_options()
    effort = Effort(rounds=options.rounds or (1 if options.quick else 3), steps=4 if options.quick else 12)
    profile = Profile() if options.profile else None
    measure_and_print(lambda log: asyncio.run(measure(sizes(options.tokens), effort, profile, log)), tables)


if __name__ == "__main__":
    main()

"""``make soak-grader``: many gradings, some hostile, by long-lived workers, then a check for leaks.

Fresh workers grade the same completions first; every later grading must have the same result. At the end no process, descriptor
or folder may remain and memory must not have grown. The exit status is 1 otherwise.
"""

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace

import psutil
from rich.console import Console

from benchmarks.harness import option_parser, print_result
from benchmarks.hostile import hostile_jobs
from benchmarks.meter import living_descendants
from benchmarks.mix import Job, jobs
from cluster.errors import UngradableError
from cluster.types import Facts, FinishReason
from grader.grade import Grader
from grader.settings import GraderSettings

# Short limits, since many hostile completions run into them.
SETTINGS = GraderSettings(
    min_code_lines=0,
    assert_cpu_seconds=0.25,
    run_cpu_seconds=0.6,
    compile_cpu_seconds=1.0,
    wall_multiplier=100.0,
    jobs_per_worker=20_000,  # a long soak has several workers, each long enough to show a leak
)
HOSTILE_SHARE = 0.04
# Limit of the growth of peak memory from the first half to the second, of this process and of the servers. A compiler keeps
# the memory of a large job until its worker is replaced.
MAX_GROWTH_MIB = 40.0
NUM_STAGES = 10
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Resources at one moment of the soak, while no worker is grading."""

    gradings: int
    own_mib: float  # resident memory of this process
    servers_mib: float  # PSS of all descendants
    num_processes: int  # descendants
    num_descriptors: int  # of this process
    most_server_descriptors: int  # maximum over the descendants


@dataclass(slots=True)
class Soak:
    """Results of a soak."""

    stages: list[Stage] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    different: list[str] = field(default_factory=list)  # gradings that differ from those of a fresh worker
    ungradable: list[str] = field(default_factory=list)  # after all attempts
    num_compared: int = 0
    num_retried: int = 0
    leaked: list[str] = field(default_factory=list)  # processes, descriptors
    grown: list[str] = field(default_factory=list)  # memory; a short soak grows while the workers are new
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """True if nothing leaked and every grade equals that of a fresh worker."""
        return not (self.leaked or self.grown or self.different or self.ungradable)


def comparable(facts: Facts) -> Facts:
    """Return the facts that must be equal in every grading of a completion: all but the seconds."""
    return replace(facts, seconds={})


def fresh_facts(completions: Sequence[Job], settings: GraderSettings) -> dict[str, Facts]:
    """Grade each completion with a fresh worker; return the facts by completion."""
    found = {}
    with Grader(settings) as grader:
        for job in completions:
            grader.close()  # the next grading starts fresh processes
            found[job.text] = comparable(grader.grade(job.problem, job.text, FinishReason.STOP).facts)
    return found


def soak(
    gradings: int,
    *,
    num_workers: int,
    friendly: Sequence[Job],
    hostile: Sequence[Job],
    settings: GraderSettings = SETTINGS,
    on_stage: Callable[[Stage], None] = lambda _stage: None,
) -> Soak:
    """Grade ``gradings`` completions in random order, then check for leaks.

    Args:
        gradings: number of gradings; a small share of them hostile.
        num_workers: threads with a grader each.
        friendly: completions whose grades are compared with those of fresh workers.
        hostile: completions that run into limits, whose grades depend on the load of the machine.
        settings: limits of the graders.
        on_stage: called NUM_STAGES times.
    """
    found = Soak()
    expected = fresh_facts(friendly, settings)
    before, files = {process.pid for process in living_descendants()}, psutil.Process().num_fds()
    workers = _Workers(found, expected, settings)
    started = time.monotonic()
    with ThreadPoolExecutor(max_workers=num_workers) as pool:
        # The threads live as long as the pool: the workers' processes end with the thread that started them.
        try:
            for done, batch in _batches(gradings, friendly, hostile):
                workers.grade(pool, num_workers, batch)
                found.stages.append(_stage(done))
                on_stage(found.stages[-1])
        finally:
            workers.close()
    found.seconds = time.monotonic() - started
    found.leaked = _leaks(found.stages, before, files)
    growth = growth_mib(found.stages)
    found.grown = [f"{mib:.1f} MiB of memory of {name}" for name, mib in growth.items() if mib > MAX_GROWTH_MIB]
    return found


def _batches(gradings: int, friendly: Sequence[Job], hostile: Sequence[Job]) -> Iterator[tuple[int, list[Job]]]:
    rng, done = random.Random(0), 0
    for stage in range(1, NUM_STAGES + 1):
        size = gradings * stage // NUM_STAGES - done
        done += size
        yield done, [rng.choice(hostile if rng.random() < HOSTILE_SHARE else friendly) for _ in range(size)]


class _Workers:
    """Graders, one per thread."""

    def __init__(self, found: Soak, expected: Mapping[str, Facts], settings: GraderSettings) -> None:
        self._found = found
        self._expected = expected
        self._settings = settings
        self._lock = threading.Lock()
        self._by_thread: dict[int, Grader] = {}

    def grade(self, pool: ThreadPoolExecutor, num_workers: int, batch: Sequence[Job]) -> None:
        """Grade a batch on every thread of the pool."""
        waiting = iter(batch)

        def work() -> None:
            grader = self._own_grader()
            for job in waiting:
                self._grade_one(grader, job)

        for ended in [pool.submit(work) for _ in range(num_workers)]:
            ended.result()

    def _own_grader(self) -> Grader:
        thread = threading.get_ident()
        with self._lock:
            if thread not in self._by_thread:
                self._by_thread[thread] = Grader(self._settings)
            return self._by_thread[thread]

    def _grade_one(self, grader: Grader, job: Job) -> None:
        reason = ""
        for attempt in range(self._settings.attempts):
            try:
                facts = grader.grade(job.problem, job.text, FinishReason.STOP).facts
            except UngradableError as error:
                reason = str(error)
                continue
            with self._lock:
                self._found.num_retried += attempt
                self._record(job, facts)
            return
        with self._lock:
            self._found.ungradable.append(f"{job.kind}: {reason}")

    def _record(self, job: Job, facts: Facts) -> None:
        self._found.verdicts[str(facts.verdict)] += 1
        expected = self._expected.get(job.text)
        if expected is None:
            return
        self._found.num_compared += 1
        if comparable(facts) != expected:
            self._found.different.append(f"{job.kind}: {comparable(facts)}\nfresh: {expected}\n{job.text}")

    def close(self) -> None:
        """End every worker."""
        for grader in self._by_thread.values():
            grader.close()


def _stage(done: int) -> Stage:
    descendants = living_descendants()
    return Stage(
        gradings=done,
        own_mib=psutil.Process().memory_info().rss / _MIB,
        servers_mib=sum(process.memory_full_info().pss for process in descendants) / _MIB,
        num_processes=len(descendants),
        num_descriptors=psutil.Process().num_fds(),
        most_server_descriptors=max((process.num_fds() for process in descendants), default=0),
    )


def _leaks(stages: Sequence[Stage], before: set[int], files: int) -> list[str]:
    leaked = [
        f"process {process.pid} ({process.name()})" for process in living_descendants() if process.pid not in before
    ]
    if (now := psutil.Process().num_fds()) > files:
        leaked.append(f"{now - files} descriptors of this process")
    # Compared with the whole first half: in a short stage one thread may do all the work, while the other has no servers yet.
    early, last = stages[: len(stages) // 2], stages[-1]
    if (more := last.num_processes - max(stage.num_processes for stage in early)) > 0:
        leaked.append(f"{more} processes more than the working servers")
    if (more := last.most_server_descriptors - max(stage.most_server_descriptors for stage in early)) > 0:
        leaked.append(f"{more} descriptors of a server")
    return leaked


def growth_mib(stages: Sequence[Stage]) -> dict[str, float]:
    """Return growth of the largest size from first to second half, of this process and of the servers."""
    half = len(stages) // 2

    def growth(size: Callable[[Stage], float]) -> float:
        return max(map(size, stages[half:])) - max(map(size, stages[:half]))

    return {"this process": growth(lambda stage: stage.own_mib), "servers": growth(lambda stage: stage.servers_mib)}


def report(found: Soak, gradings: int, num_workers: int) -> dict[str, object]:
    """Return the result to print."""
    return {
        "gradings": gradings,
        "workers": num_workers,
        "per_second": gradings / found.seconds,
        "seconds": found.seconds,
        "compared": found.num_compared,
        "different": len(found.different),
        "retried": found.num_retried,
        "ungradable": len(found.ungradable),
        "verdicts": dict(found.verdicts),
        "growth_mib": growth_mib(found.stages),
        "stages": [asdict(stage) for stage in found.stages],
        "left": found.leaked,
        "grown": found.grown,
    }


def main() -> int:
    """Run the command. Returns 1 if anything leaked or differs."""
    parser = option_parser("soak-grader", __doc__)
    parser.add_argument("--gradings", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)

    def log(stage: Stage) -> None:
        console.print(
            f"{stage.gradings:>7} gradings: {stage.own_mib:6.1f} MiB in this process, {stage.servers_mib:6.1f} MiB in "
            f"{stage.num_processes} servers; descriptors: {stage.num_descriptors} in this process, at most "
            f"{stage.most_server_descriptors} in a server"
        )

    console.print("making completions and grading each with a fresh worker")
    found = soak(
        max(NUM_STAGES, options.gradings),
        num_workers=options.workers,
        friendly=jobs(200),
        hostile=hostile_jobs(),
        on_stage=log,
    )
    for line in (*found.leaked, *found.grown, *found.different[:5], *found.ungradable[:5]):
        console.print(line, markup=False)
    print_result(report(found, max(NUM_STAGES, options.gradings), options.workers))
    return 0 if found.clean else 1


if __name__ == "__main__":
    sys.exit(main())

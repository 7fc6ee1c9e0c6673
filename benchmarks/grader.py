"""``make bench-grader``: the grader compared with two baselines of plain processes.

A  ``ocamlc -c``, ``ocamlc -o``, the program; a folder per completion, as is common
B  one ``ocamlc -o`` and the program, in memory
C  ``grader.grade.Grader``: in a sandbox, with a result per assert and all type errors counted

CPU milliseconds per completion include the client and all its descendants. Ratios are of CPU time within one run: on a busy
machine CPU time grows (caches), equally for all three.
"""

import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from benchmarks.grader_tables import tables
from benchmarks.harness import Log, measure_and_print, option_parser, percentile, ratios_by_round, rotated
from benchmarks.meter import (
    Memory,
    Slice,
    busy_seconds_of_the_machine,
    measured,
    memory_of_descendants,
    own_cpu_seconds,
    server_cpu_seconds,
)
from benchmarks.mix import SHARES, VERDICTS, Job, in_rounds, jobs, limit_bound
from benchmarks.plain import OneCompiler, ThreeProcesses
from benchmarks.side_by_side import Grade, Measurements, measure
from cluster.types import FinishReason, Verdict
from grader.grade import Grader
from grader.settings import GraderSettings

# One worker for all completions: the CPU time of a worker that ends is lost.
SETTINGS = GraderSettings(min_code_lines=0, jobs_per_worker=10**9)
MIN_COMPLETIONS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Amount of measurement."""

    completions: int
    rounds: int
    kind_rounds: int
    kind_slice_seconds: float
    limit_bound: int


def grade_function(grader: Grader) -> Grade:
    """Return a function that grades a completion and raises ValueError if the verdict does not fit its kind."""

    def grade(job: Job) -> None:
        facts = grader.grade(job.problem, job.text, FinishReason.STOP).facts
        if facts.verdict not in VERDICTS[job.kind]:
            raise ValueError(f"{job.kind}: the grader's verdict is {facts.verdict}: {facts.diagnostics}\n{job.text}")

    return grade


def plain_grade_function(baseline: ThreeProcesses | OneCompiler) -> Grade:
    """Return a function that grades a completion and raises ValueError if the outcome is not its kind."""

    def grade(job: Job) -> None:
        kind = baseline.grade(job.problem, job.text)
        if kind != job.kind:
            raise ValueError(f"{job.kind}: plain processes found {kind}\n{job.text}")

    return grade


def without_timeouts(completions: Sequence[Job], grader: Grader) -> list[Job]:
    """Return the completions that end within the time limits; the others are measured separately."""

    def times_out(job: Job) -> bool:
        verdict = grader.grade(job.problem, job.text, FinishReason.STOP).facts.verdict
        return verdict is Verdict.TIMEOUT

    return [job for job in completions if not times_out(job)]


def start_up() -> dict[str, float]:
    """Measure starting a worker and grading its first completion, best of three."""
    job = jobs(len(SHARES) * 4)[0]
    found: list[tuple[float, float]] = []
    for _ in range(3):
        spent, servers = Slice(), server_cpu_seconds()
        with Grader(SETTINGS) as grader:
            with measured(spent):
                grade_function(grader)(job)
            found.append((spent.wall_seconds, spent.cpu_seconds + server_cpu_seconds() - servers))
    return {"wall_ms": 1e3 * min(found)[0], "cpu_ms": 1e3 * min(cpu for _, cpu in found)}


def latency(measurements: Measurements) -> dict[str, float]:
    """Return percentiles of wall time per completion; keys with ``quiet_`` use the fastest grading of each completion."""
    quiet = [min(seconds) for seconds in measurements.by_job.values()]
    found: dict[str, float] = {}
    for prefix, values in {"": measurements.wall_seconds, "quiet_": quiet}.items():
        p50, p99 = statistics.median(values), percentile(values, 0.99)
        found |= {f"{prefix}p50_ms": 1e3 * p50, f"{prefix}p99_ms": 1e3 * p99, f"{prefix}max_ms": 1e3 * max(values)}
        found[f"{prefix}p99_over_p50"] = p99 / p50
    return found


def measure_limit_bound(grader: Grader, number: int) -> dict[str, float]:
    """Measure completions whose asserts all loop, so that the time limits end them."""
    spent, servers, grade = Slice(), server_cpu_seconds(), grade_function(grader)
    completions = limit_bound(number)
    with measured(spent):
        for job in completions:
            grade(job)
    cpu_seconds = spent.cpu_seconds + server_cpu_seconds() - servers
    return {
        "completions": number,
        "cpu_ms": 1e3 * cpu_seconds / number,
        "wall_ms": 1e3 * spent.wall_seconds / number,
        "assert_cpu_seconds": SETTINGS.assert_cpu_seconds,
        "run_cpu_seconds": SETTINGS.run_cpu_seconds,
    }


def two_workers(graders: Sequence[Grader], completions: Sequence[Job], rounds: int) -> dict[str, float]:
    """Compare one worker with two on the same completions. A worker is a thread with its own grader."""
    walls: dict[int, list[float]] = {1: [], 2: []}
    cpus: dict[int, list[float]] = {1: [], 2: []}
    others = []
    for index in range(rounds):
        for number in rotated((1, 2), index):
            busy, cpu, started = busy_seconds_of_the_machine(), _all_cpu_seconds(), time.perf_counter()
            _grade_together(graders[:number], completions)
            walls[number].append(time.perf_counter() - started)
            cpus[number].append(_all_cpu_seconds() - cpu)
            cpu_of_others = busy_seconds_of_the_machine() - busy - cpus[number][-1]
            others.append(max(0.0, cpu_of_others) / walls[number][-1])
    return {
        "speedup": sum(walls[1]) / sum(walls[2]),
        "best_speedup": ratios_by_round(walls[1], walls[2])[-1],
        "one_per_second": len(completions) * rounds / sum(walls[1]),
        "two_per_second": len(completions) * rounds / sum(walls[2]),
        "one_cpu_ms": 1e3 * sum(cpus[1]) / rounds / len(completions),
        "two_cpu_ms": 1e3 * sum(cpus[2]) / rounds / len(completions),
        "cores_taken_by_others": statistics.mean(others),
    }


def _all_cpu_seconds() -> float:
    return own_cpu_seconds() + server_cpu_seconds()


def _grade_together(graders: Sequence[Grader], completions: Sequence[Job]) -> None:
    waiting = iter(completions)  # next() is atomic for Python threads

    def work(grader: Grader) -> None:
        grade = grade_function(grader)
        for job in waiting:
            grade(job)

    with ThreadPoolExecutor(max_workers=len(graders)) as pool:
        for ended in [pool.submit(work, grader) for grader in graders]:
            ended.result()


def row(measurements: Mapping[str, Measurements]) -> dict[str, dict[str, float]]:
    """Return the measurements of all three methods on one set of completions, and the ratios of CPU time."""
    found: dict[str, dict[str, float]] = {
        name: {"cpu_ms": one.cpu_ms, "per_core": one.per_core, "wall_ms": one.wall_ms, "gradings": one.num_completions}
        for name, one in measurements.items()
    }
    found["ratio"] = {f"{name}/C": measurements[name].cpu_ms / measurements["C"].cpu_ms for name in ("A", "B")}
    return found


def run(effort: Effort, log: Log) -> dict[str, object]:
    """Measure everything and return the result."""
    log("making completions and checking each with plain ocamlc")
    completions = jobs(effort.completions)
    log("starting workers")
    with ExitStack() as stack:
        starting = start_up()
        methods: dict[str, Grade] = {"A": plain_grade_function(ThreeProcesses())}
        methods["B"] = plain_grade_function(stack.enter_context(OneCompiler()))
        grader = stack.enter_context(Grader(SETTINGS))
        methods["C"] = grade_function(grader)
        completions = without_timeouts(completions, grader)
        return {"start": starting, **_measured_with(methods, grader, completions, effort, log)}


def _measured_with(
    methods: Mapping[str, Grade], grader: Grader, completions: Sequence[Job], effort: Effort, log: Log
) -> dict[str, object]:
    def rounds_of(job_list: Sequence[Job], number: int) -> list[list[Job]]:
        return [jobs_of_round for jobs_of_round in in_rounds(job_list, number) if jobs_of_round]

    log("the mix, three methods in alternating turns")
    mix = measure(methods, rounds_of(completions, effort.rounds), slice_seconds=1.0, on_round=lambda: None)
    memory = memory_of_descendants()
    kinds = {}
    for kind in SHARES:
        log(f"{kind.replace('_', ' ')}, three methods in alternating turns")
        of_kind = [job for job in completions if job.kind == kind]
        chunks = rounds_of(of_kind * effort.kind_rounds, effort.kind_rounds)
        kinds[kind] = row(measure(methods, chunks, slice_seconds=effort.kind_slice_seconds, on_round=lambda: None))
    log("completions that loop")
    limits = measure_limit_bound(grader, effort.limit_bound)
    log("one worker and two")
    with Grader(SETTINGS) as second:
        # A worker's processes end with the thread that started them. This thread outlives the threads of a round.
        grade_function(second)(completions[0])
        together = two_workers([grader, second], completions[: min(len(completions), 200)], max(2, effort.rounds))
        both = memory_of_descendants()
    return {
        "completions": len(completions),
        "mix": row(mix),
        "latency": latency(mix["C"]),
        "kinds": kinds,
        "limit_bound": limits,
        "memory": _memory(memory, both),
        "two_workers": together,
        "machine": {
            "cores": os.cpu_count(),
            "arch": platform.machine(),
            "ocaml": grader.toolchain.version,
            "python": platform.python_version(),
            "sandbox": grader.sandbox.describe(),
        },
    }


def _memory(one: Memory, two: Memory) -> dict[str, float]:
    return {**asdict(one), "second_worker_pss_mib": two.pss_mib - one.pss_mib, "two_workers_pss_mib": two.pss_mib}


def main() -> None:
    """Run the command."""
    parser = option_parser("bench-grader", __doc__)
    parser.add_argument("--completions", type=int, default=400, help="different completions in the mix")
    parser.add_argument("--quick", action="store_true", help="about 30 s instead of some minutes; less precise")
    options = parser.parse_args()
    if options.completions < MIN_COMPLETIONS:
        parser.error(f"--completions must be at least {MIN_COMPLETIONS}, so that every kind occurs")
    effort = (
        Effort(
            completions=min(100, options.completions), rounds=2, kind_rounds=2, kind_slice_seconds=0.3, limit_bound=1
        )
        if options.quick
        else Effort(completions=options.completions, rounds=4, kind_rounds=4, kind_slice_seconds=1.0, limit_bound=4)
    )
    measure_and_print(lambda log: run(effort, log), tables)


if __name__ == "__main__":
    main()

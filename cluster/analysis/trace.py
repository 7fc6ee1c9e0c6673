"""``caravan trace``: a timeline of a run as a Chrome trace, which Perfetto (ui.perfetto.dev) opens.

The timestamps come from the run's rollouts, metrics and publishes. The trace has one process for each component;
spans that overlap are on different threads of it::

    samplers   a completion being sampled
    graders    a completion being graded, including the wait for a grader
    learner    a step
    publish    a policy being sent to the samplers
"""

import heapq
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError, RunFolderError
from cluster.ledger.files import read_rollouts
from cluster.ledger.jsonl import whole_rows
from cluster.ledger.run_folder import RunFolder

COLUMNS = [
    *("completion_id", "problem_id", "step", "fate", "reason", "policy_version", "verdict", "total_reward"),
    *("asked_at", "sampled_at", "graded_at", "sampling_seconds"),
]
PUBLISH_DETAILS = ("swap_p50_seconds", "swap_p95_seconds", "canary_gap_max", "weight_sync_tolerance")
PROCESSES = {"samplers": 1, "graders": 2, "learner": 3, "publish": 4}


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Span:
    """A period of work in one process of the trace; times are Unix seconds."""

    started_at: float
    ended_at: float
    process: str
    name: str
    details: Mapping[str, Any] = field(compare=False, default_factory=dict)


def write_trace(run: Path, out: Path) -> int:
    """Write the trace of a run, finished or not, and return the number of spans.

    Raises RunFolderError for the run and ConfigError for ``out``.
    """
    folder = RunFolder(run)
    if not folder.config.is_file():
        raise RunFolderError(f"{run} is not a run directory: it has no {folder.config.name}")
    spans = sorted(spans_of(folder))
    if not spans:
        raise RunFolderError(f"{run} has no timestamps yet: a run writes rollouts and metrics when a step finishes")
    events = ",\n".join(map(json.dumps, trace_events(spans)))
    try:
        out.write_text(f'{{"displayTimeUnit": "ms", "traceEvents": [\n{events}\n]}}\n', encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror}); choose another file") from None
    return len(spans)


def spans_of(folder: RunFolder) -> Iterator[Span]:
    """Read all spans from the run's files, unsorted."""
    for path in folder.rollout_files():
        for row in read_rollouts(path, COLUMNS).to_pylist():
            yield from _completion_spans(row)
    for row in whole_rows(folder.metrics):
        if "learned_at" in row:
            yield Span(
                started_at=row["learn_began_at"],
                ended_at=row["learned_at"],
                process="learner",
                name=f"step {row['step']}",
                details={name: row.get(name) for name in ("reward", "loss", "mean_staleness", "num_completions")},
            )
    for row in whole_rows(folder.publishes):
        yield Span(
            started_at=row["began_at"],
            ended_at=row["began_at"] + row["publish_seconds"],
            process="publish",
            name=f"policy {row['step']}",
            details={name: row[name] for name in PUBLISH_DETAILS if name in row},
        )


def _completion_spans(row: Mapping[str, Any]) -> Iterator[Span]:
    if row["sampled_at"] is None:
        return
    details = {name: row[name] for name in COLUMNS if not name.endswith(("_at", "_id")) and row[name] is not None}
    started_at = max(row["asked_at"], row["sampled_at"] - row["sampling_seconds"])
    yield Span(
        started_at=started_at,
        ended_at=row["sampled_at"],
        process="samplers",
        name=row["completion_id"],
        details={**details, "problem": row["problem_id"], "queued_seconds": round(started_at - row["asked_at"], 6)},
    )
    if row["graded_at"] is not None:
        yield Span(
            started_at=row["sampled_at"],
            ended_at=row["graded_at"],
            process="graders",
            name=row["completion_id"],
            details=details,
        )


def trace_events(spans: Iterable[Span]) -> Iterator[dict[str, Any]]:
    """Convert spans, sorted by start, to Chrome's "complete" events in microseconds since the first span."""
    for process, number in PROCESSES.items():
        yield {"ph": "M", "name": "process_name", "pid": number, "args": {"name": process}}
    threads: dict[str, list[tuple[float, int]]] = {process: [] for process in PROCESSES}  # heaps of (last end, thread)
    num_threads = dict.fromkeys(PROCESSES, 0)
    origin: float | None = None
    for span in spans:
        origin = span.started_at if origin is None else origin
        process_threads = threads[span.process]
        if process_threads and process_threads[0][0] <= span.started_at:
            _, thread = heapq.heappop(process_threads)
        else:
            thread = num_threads[span.process]
            num_threads[span.process] += 1
        heapq.heappush(process_threads, (span.ended_at, thread))
        yield {
            "ph": "X",
            "name": span.name,
            "cat": span.process,
            "pid": PROCESSES[span.process],
            "tid": thread,
            "ts": round(1e6 * (span.started_at - origin)),
            "dur": round(1e6 * (span.ended_at - span.started_at)),
            "args": dict(span.details),
        }

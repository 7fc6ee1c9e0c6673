"""``caravan trace``: what happened when in a run, as a Chrome trace that Perfetto (ui.perfetto.dev) opens.

Nothing is recorded for it: the times stand in the run's rollouts, metrics and publishes. Each part is a process of the trace, and
each thing that it does at the same time as others has a lane of its own::

    samplers   a completion in its engine
    graders    a completion with the graders, waiting for one included
    learner    a step
    publish    a policy on its way to the samplers
"""

import heapq
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.errors import ConfigError, RunFolderError
from cluster.ledger.files import read_rollouts
from cluster.ledger.run_folder import RunFolder, whole_rows

COLUMNS = [
    *("completion_id", "problem_id", "step", "fate", "reason", "policy_version", "verdict", "total_reward"),
    *("asked_at", "sampled_at", "graded_at", "sampling_seconds"),
]
PROCESSES = {"samplers": 1, "graders": 2, "learner": 3, "publish": 4}


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Span:
    """Something that took its time; both ends in Unix seconds."""

    began_at: float
    ended_at: float
    process: str
    name: str
    details: Mapping[str, Any] = field(compare=False, default_factory=dict)


def write_trace(run: Path, out: Path) -> int:
    """Write the trace of a run, finished or not; returns the number of spans. Raises RunFolderError, ConfigError for ``out``."""
    folder = RunFolder(run)
    if not folder.config.is_file():
        raise RunFolderError(f"{run} is not the folder of a run: it holds no {folder.config.name}")
    spans = sorted(spans_of(folder))
    if not spans:
        raise RunFolderError(
            f"{run} holds nothing to draw: a run writes rollouts and metrics as each of its steps ends"
        )
    events = ",\n".join(map(json.dumps, trace_events(spans)))
    try:
        out.write_text(f'{{"displayTimeUnit": "ms", "traceEvents": [\n{events}\n]}}\n', encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror}); choose another file") from None
    return len(spans)


def spans_of(folder: RunFolder) -> Iterator[Span]:
    """Everything that the run's files know the times of, in no order."""
    for path in folder.rollout_files():
        for row in read_rollouts(path, COLUMNS).to_pylist():
            yield from _completion_spans(row)
    for row in whole_rows(folder.metrics):
        if "learned_at" in row:
            figures = {name: row.get(name) for name in ("reward", "loss", "mean_staleness", "num_completions")}
            yield Span(
                began_at=row["learn_began_at"],
                ended_at=row["learned_at"],
                process="learner",
                name=f"step {row['step']}",
                details=figures,
            )
    for row in whole_rows(folder.publishes):
        yield Span(
            began_at=row["began_at"],
            ended_at=row["began_at"] + row["publish_seconds"],
            process="publish",
            name=f"policy {row['step']}",
            details={name: row[name] for name in ("swap_p50_seconds", "swap_p95_seconds", "canary_gap_max")},
        )


def _completion_spans(row: Mapping[str, Any]) -> Iterator[Span]:
    if row["sampled_at"] is None:
        return
    details = {name: row[name] for name in COLUMNS if not name.endswith(("_at", "_id")) and row[name] is not None}
    began_at = max(row["asked_at"], row["sampled_at"] - row["sampling_seconds"])
    yield Span(
        began_at=began_at,
        ended_at=row["sampled_at"],
        process="samplers",
        name=row["completion_id"],
        details={**details, "problem": row["problem_id"], "queued_seconds": round(began_at - row["asked_at"], 6)},
    )
    if row["graded_at"] is not None:
        yield Span(
            began_at=row["sampled_at"],
            ended_at=row["graded_at"],
            process="graders",
            name=row["completion_id"],
            details=details,
        )


def trace_events(spans: Iterable[Span]) -> Iterator[dict[str, Any]]:
    """Chrome's "complete" events, microseconds since the first span; ``spans`` come in the order in which they began."""
    for process, number in PROCESSES.items():
        yield {"ph": "M", "name": "process_name", "pid": number, "args": {"name": process}}
    busy: dict[str, list[tuple[float, int]]] = {process: [] for process in PROCESSES}  # heaps of (end, lane)
    num_lanes = dict.fromkeys(PROCESSES, 0)
    origin: float | None = None
    for span in spans:
        origin = span.began_at if origin is None else origin
        lanes = busy[span.process]
        if lanes and lanes[0][0] <= span.began_at:
            _, lane = heapq.heappop(lanes)
        else:
            lane = num_lanes[span.process]
            num_lanes[span.process] += 1
        heapq.heappush(lanes, (span.ended_at, lane))
        yield {
            "ph": "X",
            "name": span.name,
            "cat": span.process,
            "pid": PROCESSES[span.process],
            "tid": lane,
            "ts": round(1e6 * (span.began_at - origin)),
            "dur": round(1e6 * (span.ended_at - span.began_at)),
            "args": dict(span.details),
        }

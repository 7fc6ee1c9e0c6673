"""Meters of the driver's process: CPU time at the end of each step, traffic to and from Ray, and a profile."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

from cluster.console import View
from cluster.ledger.outcomes import DroppedGroup
from cluster.ledger.run_folder import RunFolder
from cluster.run.recorder import RunRecorder
from cluster.types import Group, Prompt, StepReport

ROOT = Path(__file__).parents[1]
PROJECT = tuple(str(ROOT / package) + os.sep for package in ("cluster", "rollout", "grader", "learner"))
SAMPLE_SECONDS = 0.004
"""CPU time between two samples of the profile; the timers of most kernels are not finer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Totals since the start of the process, at the end of a step."""

    at: float  # seconds
    cpu: float  # CPU seconds of all threads
    main: float  # CPU seconds of the driver's own thread
    ledger: float  # CPU seconds of the ledger
    num_completions: int  # recorded


class TimedRecorder(RunRecorder):
    """The recorder of a run; measures its CPU time and calls ``on_step`` after each step."""

    def __init__(
        self, folder: RunFolder, view: View, prompts: Mapping[str, Prompt], on_step: Callable[[int, Moment], None]
    ) -> None:
        super().__init__(folder, view, lambda _metrics: None, prompts)
        self._on_step = on_step
        self._cpu_seconds = 0.0
        self._num_completions = 0

    def group_dropped(self, dropped: DroppedGroup, step: int) -> None:
        """Record a group, timed."""
        began = time.thread_time()
        super().group_dropped(dropped, step)
        self._cpu_seconds += time.thread_time() - began
        self._num_completions += len(dropped.group.completions)

    def step_done(
        self,
        epoch: float,
        groups: Sequence[Group],
        report: StepReport,
        metrics: Mapping[str, float],
        active_overrides: Mapping[str, Any],
    ) -> None:
        """Record a step, timed."""
        began = time.thread_time()
        super().step_done(epoch, groups, report, metrics, active_overrides)
        self._cpu_seconds += time.thread_time() - began
        self._num_completions += sum(len(group.completions) for group in groups)
        moment = Moment(
            at=time.perf_counter(),
            cpu=time.process_time(),
            main=time.thread_time(),
            ledger=self._cpu_seconds,
            num_completions=self._num_completions,
        )
        self._on_step(report.step, moment)


@dataclass(slots=True)
class Traffic:
    """Calls and bytes between this process and Ray."""

    calls: int = 0  # of actor methods, and ``ray.put``
    results: int = 0  # objects received
    bytes_sent: int = 0  # serialized arguments and objects
    bytes_received: int = 0  # serialized results

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count during the block."""
        import ray
        from ray._private.serialization import SerializationContext
        from ray.actor import ActorHandle

        submit, put = ActorHandle._actor_method_call, ray.put
        serialize, deserialize = SerializationContext.serialize, SerializationContext._deserialize_object

        def counted_submit(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            return submit(*arguments, **named)

        def counted_put(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            return put(*arguments, **named)

        def counted_serialize(context: Any, value: Any) -> Any:
            serialized = serialize(context, value)
            self.bytes_sent += serialized.total_bytes
            return serialized

        def counted_deserialize(context: Any, data: Any, *others: Any) -> Any:
            self.results += 1
            self.bytes_received += len(data) if data is not None else 0
            return deserialize(context, data, *others)

        with ExitStack() as patches:
            patches.enter_context(patch.object(ActorHandle, "_actor_method_call", counted_submit))
            patches.enter_context(patch.object(ray, "put", counted_put))
            patches.enter_context(patch.object(SerializationContext, "serialize", counted_serialize))
            patches.enter_context(patch.object(SerializationContext, "_deserialize_object", counted_deserialize))
            yield


@dataclass(slots=True)
class Profile:
    """Samples of the main thread, by the innermost function of the project on the stack and the module that runs.

    A sample during a call of compiled code counts for its caller.
    """

    samples: Counter[tuple[str, str]] = field(default_factory=Counter)  # (function of the project, module)

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Sample during the block, which runs in the main thread."""
        before = signal.signal(signal.SIGPROF, self._sample)
        # The timer counts the CPU time of all threads; only the main thread handles its signal.
        signal.setitimer(signal.ITIMER_PROF, SAMPLE_SECONDS, SAMPLE_SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            signal.signal(signal.SIGPROF, before)

    def largest(self, number: int, *, main_ms: float, other_ms: float) -> list[tuple[str, str, float]]:
        """Return the largest costs: function of the project, module, ms of CPU time.

        ``main_ms`` of the main thread are divided by its samples; ``other_ms`` of the other threads are one cost.
        """
        total = self.samples.total() or 1
        costs = [(*where, main_ms * count / total) for where, count in self.samples.items()]
        costs.append(("", "Ray's own threads", other_ms))
        return sorted(costs, key=lambda cost: cost[2], reverse=True)[:number]

    def _sample(self, signal_number: int, frame: FrameType | None) -> None:
        del signal_number
        if frame is not None and frame.f_code.co_name != "select":  # else the main thread waits, and another one runs
            self.samples[place_of(frame)] += 1


def place_of(frame: FrameType) -> tuple[str, str]:
    """Return the innermost function of the project on a stack, and the top-level module that runs."""
    module = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    current: FrameType | None = frame
    while current is not None:
        code = current.f_code
        if code.co_filename.startswith(PROJECT):
            return f"{Path(code.co_filename).relative_to(ROOT)}: {code.co_qualname}", module
        current = current.f_back
    return "(event loop)", module

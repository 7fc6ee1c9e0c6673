"""The runner's events -> the outcome of every assert. Pure.

A step is one statement of the tests. An assert passes if its step ran to the end and no execution of the assert failed. A
plain OCaml program does the same: an assert on a branch that is not taken has not failed, and an assert that an exception
skips has not passed. If another assert of the same step failed, an assert on a branch that was not taken counts as not run,
since the plain program would have ended there. If all asserts hold but the tests raise an exception elsewhere, one failed
outcome is added, since the plain program fails such tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster.types import AssertOutcome, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """The outcome of a run of the tests."""

    asserts: tuple[AssertOutcome, ...]  # in the order of the tests; one more if all held and the tests did not end
    messages: tuple[str, ...]  # about the asserts that did not pass
    verdict: Verdict


_ASSERT_FALSE = "Assertion_failed"  # exception of `assert false` in grader/ocaml/runner.ml; an event names the assert


@dataclass(slots=True)
class _Report:
    """The runner's events, by kind."""

    done: set[int] = field(default_factory=set)
    raised: dict[int, str] = field(default_factory=dict)  # step -> message
    died: dict[int, str] = field(default_factory=dict)  # step -> "time" or "killed"
    held: set[int] = field(default_factory=set)
    failed: dict[int, tuple[AssertOutcome, str]] = field(default_factory=dict)  # assert -> outcome, message
    set_up: str | None = None  # the exception in the set-up that ended the run
    ended: bool = False
    # Asserts outside the steps, in functions that steps call:
    steps_of: dict[int, set[int]] = field(default_factory=dict)  # assert -> steps in which it began
    open: set[int] = field(default_factory=set)  # began and did not end, or began too often to be tracked
    blamed: dict[int, set[int]] = field(default_factory=dict)  # step that died -> asserts that were open then


def outcome_of_events(owners: Sequence[int], events: Sequence[str]) -> RunOutcome:
    """Derive the outcome of every assert from the runner's events.

    Args:
        owners: per assert, its step; 0 for an assert in a function that steps call.
        events: the runner's report; ``grader/ocaml/runner.ml`` documents it.
    """
    report = _read(events)
    owning = set(owners)
    owners_of_failed = {owner for index, owner in enumerate(owners, start=1) if index in report.failed}
    failed_steps = [step for step in (*report.raised, *report.died) if step not in owning]  # steps without an assert
    outcomes: list[AssertOutcome] = []
    messages: list[str] = []
    for index, owner in enumerate(owners, start=1):
        outcome, message = _outcome(
            report,
            index,
            owner,
            reached_end=report.ended and not failed_steps,
            failed_elsewhere=_failed_elsewhere(report, index, failed_steps),
        )
        if outcome is AssertOutcome.PASSED and owner in owners_of_failed and index not in report.held:
            outcome, message = AssertOutcome.NOT_RUN, "not run"
        outcomes.append(outcome)
        if message:
            messages.append(f"assert {index}: {message}")
    if all(outcome is AssertOutcome.PASSED for outcome in outcomes) and (failed_steps or not report.ended):
        outcomes.append(AssertOutcome.TIMED_OUT if "time" in report.died.values() else AssertOutcome.RAISED)
        messages.append("every assert held, but the tests did not run to their end")
    if report.set_up is not None:
        messages.insert(0, f"outside of the asserts: {report.set_up}")
    messages += [f"between the asserts: {text}" for step, text in report.raised.items() if step not in owning]
    return RunOutcome(asserts=tuple(outcomes), messages=tuple(messages), verdict=_verdict(report, outcomes))


def _read(events: Sequence[str]) -> _Report:
    report = _Report()
    inside: list[int] = []  # steps that are running, outermost first
    busy: set[int] = set()  # asserts that began too often to be tracked
    for event in events:
        kind, _, rest = event.partition(" ")
        number, _, message = rest.partition(" ")
        if kind == "start":
            inside.append(int(number))
        elif kind == "held":
            report.held.add(int(number))
        elif kind == "done":
            del inside[-1:]
            report.done.add(int(number))
        elif kind == "raised":
            del inside[-1:]
            report.raised[int(number)] = message
        elif kind == "died":
            report.died[int(number)] = message
            report.blamed[int(number)] = set(report.open)
            for index in report.open:
                report.failed.setdefault(index, _outcome_of_death(message))
            report.open &= busy
            inside.clear()
        elif kind in ("begin", "busy"):
            report.open.add(int(number))
            busy |= {int(number)} if kind == "busy" else set()
            report.steps_of.setdefault(int(number), set()).add(inside[-1] if inside else 0)
        elif kind == "left":
            report.open -= {int(number)} - busy
        elif kind == "false":
            report.failed[int(number)] = (AssertOutcome.FAILED, "false")
        elif kind == "error":
            report.failed[int(number)] = (AssertOutcome.RAISED, f"raised {message}")
        elif kind == "init":
            report.set_up = f"raised {rest}"
        elif kind == "end":
            report.ended = True
    return report


def _failed_elsewhere(report: _Report, index: int, failed_steps: Sequence[int]) -> bool:
    """Return whether other asserts ended every failed step, and this assert shares no step with them.

    Asserts of one function share the steps that call it: the call that died would have reached this assert too.
    """
    own_steps = report.steps_of.get(index, set())
    for step in failed_steps:
        others = report.blamed.get(step, set())
        if not others or any(own_steps & ({step} | report.steps_of[other]) for other in others):
            return False
    return report.ended


def _outcome(
    report: _Report, index: int, owner: int, *, reached_end: bool, failed_elsewhere: bool
) -> tuple[AssertOutcome, str]:
    if index in report.failed:
        return report.failed[index]
    if owner in report.done or (owner == 0 and reached_end):
        return AssertOutcome.PASSED, ""
    if owner and owner in report.raised:
        return AssertOutcome.RAISED, f"raised {report.raised[owner]}"
    if owner and owner in report.died:
        return _outcome_of_death(report.died[owner])
    if owner == 0 and index in report.held and failed_elsewhere:
        return AssertOutcome.PASSED, ""
    return AssertOutcome.NOT_RUN, "not run"


def _outcome_of_death(reason: str) -> tuple[AssertOutcome, str]:
    if reason == "time":
        return AssertOutcome.TIMED_OUT, "out of CPU time"
    return AssertOutcome.RAISED, "the process was killed (memory or stack)"


def _verdict(report: _Report, outcomes: Sequence[AssertOutcome]) -> Verdict:
    if outcomes and all(outcome is AssertOutcome.PASSED for outcome in outcomes):
        return Verdict.PASSED
    if AssertOutcome.TIMED_OUT in outcomes or "time" in report.died.values():
        return Verdict.TIMEOUT
    raised = [message for message in report.raised.values() if message != _ASSERT_FALSE]
    if AssertOutcome.RAISED in outcomes or raised or report.died or report.set_up is not None:
        return Verdict.RAISED
    return Verdict.WRONG

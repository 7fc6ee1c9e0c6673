"""What the runner reported -> what became of every assert. Pure.

An assert passed where the step that holds it ran to its end and no execution of the assert failed. That is how a plain
OCaml program reads: an assert on a branch not taken has not failed, one that an exception jumped over has not passed.
Only where another assert of the same step failed does one on a branch not taken count as not run, since the plain program
would have ended there. Tests whose asserts all hold, but which end in an exception elsewhere, have one failed test more:
the plain program fails them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cluster.types import AssertOutcome, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The outcomes, in the order of the tests, and the messages behind those that did not pass.

    One more outcome than there are asserts where all of them held and the tests broke off all the same.
    """

    outcomes: tuple[AssertOutcome, ...]
    messages: tuple[str, ...]
    verdict: Verdict


_ASSERT_FALSE = "Assertion_failed"  # what `assert false` raises in grader/ocaml/runner.ml, beside saying which it was


@dataclass(slots=True)
class _Report:
    """The runner's events, by what they speak of."""

    done: set[int] = field(default_factory=set)
    raised: dict[int, str] = field(default_factory=dict)  # step -> message
    died: dict[int, str] = field(default_factory=dict)  # step -> "time" or "killed"
    held: set[int] = field(default_factory=set)
    failed: dict[int, tuple[AssertOutcome, str]] = field(default_factory=dict)  # assert -> outcome, message
    set_up: str | None = None  # the exception that ended everything
    ended: bool = False
    # Of the asserts that no step holds:
    steps_of: dict[int, set[int]] = field(default_factory=dict)  # assert -> the steps that it was begun in
    open: set[int] = field(default_factory=set)  # begun and not left, or begun too often to say
    blamed: dict[int, set[int]] = field(default_factory=dict)  # step that died -> those that were open then


def tally(owners: Sequence[int], events: Sequence[str]) -> Tally:
    """Count the asserts.

    Args:
        owners: per assert, the step that holds it; 0 for one that no step holds (in a function that steps call).
        events: the runner's report, see ``grader/ocaml/runner.ml``.
    """
    report = _read(events)
    owning = set(owners)
    troubled = {owner for index, owner in enumerate(owners, start=1) if index in report.failed}
    silent_trouble = [step for step in (*report.raised, *report.died) if step not in owning]
    outcomes: list[AssertOutcome] = []
    messages: list[str] = []
    for index, owner in enumerate(owners, start=1):
        outcome, message = _outcome(
            report,
            index,
            owner,
            reached_end=report.ended and not silent_trouble,
            apart_from_trouble=_apart_from_trouble(report, index, silent_trouble),
        )
        if outcome is AssertOutcome.PASSED and owner in troubled and index not in report.held:
            outcome, message = AssertOutcome.NOT_RUN, "not run"
        outcomes.append(outcome)
        if message:
            messages.append(f"assert {index}: {message}")
    if all(outcome is AssertOutcome.PASSED for outcome in outcomes) and (silent_trouble or not report.ended):
        outcomes.append(AssertOutcome.TIMED_OUT if "time" in report.died.values() else AssertOutcome.RAISED)
        messages.append("every assert held, but the tests did not run to their end")
    if report.set_up is not None:
        messages.insert(0, f"outside of the asserts: {report.set_up}")
    messages += [f"between the asserts: {text}" for step, text in report.raised.items() if step not in owning]
    return Tally(outcomes=tuple(outcomes), messages=tuple(messages), verdict=_verdict(report, outcomes))


def _read(events: Sequence[str]) -> _Report:
    report = _Report()
    inside: list[int] = []  # the steps that are under way
    busy: set[int] = set()
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
                report.failed.setdefault(index, _end_of(message))
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


def _apart_from_trouble(report: _Report, index: int, silent_trouble: Sequence[int]) -> bool:
    """Whether whatever went wrong is the doing of other asserts, which this one shares no step with.

    Asserts of one function, called by several steps, do share one: the call that died would have come to this one as well.
    """
    own_steps = report.steps_of.get(index, set())
    for step in silent_trouble:
        others = report.blamed.get(step, set())
        if not others or any(own_steps & ({step} | report.steps_of[other]) for other in others):
            return False
    return report.ended


def _outcome(
    report: _Report, index: int, owner: int, *, reached_end: bool, apart_from_trouble: bool
) -> tuple[AssertOutcome, str]:
    if index in report.failed:
        return report.failed[index]
    if owner in report.done or (owner == 0 and reached_end):
        return AssertOutcome.PASSED, ""
    if owner and owner in report.raised:
        return AssertOutcome.RAISED, f"raised {report.raised[owner]}"
    if owner and owner in report.died:
        return _end_of(report.died[owner])
    if owner == 0 and index in report.held and apart_from_trouble:
        return AssertOutcome.PASSED, ""
    return AssertOutcome.NOT_RUN, "not run"


def _end_of(how: str) -> tuple[AssertOutcome, str]:
    if how == "time":
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

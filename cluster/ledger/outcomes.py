"""Where each completion of a group ended: in exactly one outcome, with a reason where it was not trained."""

from dataclasses import dataclass

from cluster.types import Group, Outcome, StepReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A group that will not be trained, and why."""

    group: Group  # what there was of it
    group_size: int  # what was asked for
    outcome: Outcome
    reason: str  # of cluster.filters, or "stale", "not_started", "too_slow", "ungradable", "sampler_failed: ..."


Ending = tuple[Outcome, str]  # the reason is empty where it was trained

UNGRADABLE = "ungradable"
OUTCOME_OF_REASON = {
    UNGRADABLE: Outcome.FAILED,
    "stale": Outcome.STALE,
}  # why the learner left one out; anything else: filtered


def endings_of_trained(group: Group, report: StepReport) -> list[Ending]:
    """Per completion of a group that was part of a step, ``[G]``."""
    reasons = [
        report.excluded.get(completion.id) or (UNGRADABLE if grade is None else "")
        for completion, grade in zip(group.completions, group.grades, strict=True)
    ]
    return [
        (Outcome.TRAINED, "") if not reason else (OUTCOME_OF_REASON.get(reason, Outcome.FILTERED), reason)
        for reason in reasons
    ]


def endings_of_dropped(dropped: Dropped) -> list[Ending]:
    """Per completion that was asked for, ``[group_size]``: those that had come first, then those that never did."""
    whole = (dropped.outcome, dropped.reason)
    group = dropped.group
    timestamps = group.timestamps or (None,) * len(group.completions)
    endings = [
        # Graded in vain, or not graded yet when the group was given up?
        (Outcome.FAILED, UNGRADABLE) if grade is None and (hop is None or hop.graded is not None) else whole
        for grade, hop in zip(group.grades, timestamps, strict=True)
    ]
    return endings + [whole] * (dropped.group_size - len(endings))

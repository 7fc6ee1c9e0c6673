"""Outcome of each completion of a group: trained, or dropped for a reason."""

from dataclasses import dataclass

from cluster.types import Drop, DropReason, Group, StepReport


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedGroup:
    """A group that is not trained."""

    group: Group  # with the completions that had ended
    group_size: int  # completions requested
    drop: Drop


def drops_of_trained(group: Group, report: StepReport) -> list[Drop | None]:
    """Return why each completion of a group in a step was not trained, ``[G]``; None if it was."""
    reasons = [
        report.excluded.get(completion.id) or (DropReason.UNGRADABLE if grade is None else None)
        for completion, grade in zip(group.completions, group.grades, strict=True)
    ]
    return [Drop(reason) if reason else None for reason in reasons]


def drops_of_dropped(dropped: DroppedGroup) -> list[Drop]:
    """Return why each requested completion was not trained, ``[group_size]``: first the sampled ones, then the others."""
    group = dropped.group
    timestamps = group.timestamps or (None,) * len(group.completions)
    drops = [
        # A completion with a time of grading but no grade is ungradable; without either, the group was cancelled first.
        Drop(DropReason.UNGRADABLE) if grade is None and (times is None or times.graded is not None) else dropped.drop
        for grade, times in zip(group.grades, timestamps, strict=True)
    ]
    return drops + [dropped.drop] * (dropped.group_size - len(drops))

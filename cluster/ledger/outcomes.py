"""Where each completion of a group ended: in exactly one fate, with a reason where it was not trained."""

from dataclasses import dataclass

from cluster.types import Fate, Group, StepReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A group that will not be trained, and why."""

    group: Group  # what there was of it
    group_size: int  # what was asked for
    fate: Fate
    reason: str  # of cluster.filters, or "stale", "not_started", "too_slow", "ungradable", "sampler_failed: ..."


Ending = tuple[Fate, str]  # the reason is empty where it was trained

UNGRADABLE = "ungradable"
FATE_OF_REASON = {UNGRADABLE: Fate.FAILED, "stale": Fate.STALE}  # why the learner left one out; anything else: filtered


def endings_of_trained(group: Group, report: StepReport) -> list[Ending]:
    """Per completion of a group that was part of a step, ``[G]``."""
    reasons = [
        report.left_out.get(completion.id) or (UNGRADABLE if grade is None else "")
        for completion, grade in zip(group.completions, group.grades, strict=True)
    ]
    return [
        (Fate.TRAINED, "") if not reason else (FATE_OF_REASON.get(reason, Fate.FILTERED), reason) for reason in reasons
    ]


def endings_of_dropped(dropped: Dropped) -> list[Ending]:
    """Per completion that was asked for, ``[group_size]``: those that had come first, then those that never did."""
    whole = (dropped.fate, dropped.reason)
    group = dropped.group
    hops = group.hops or (None,) * len(group.completions)
    endings = [
        # Graded in vain, or not graded yet when the group was given up?
        (Fate.FAILED, UNGRADABLE) if grade is None and (hop is None or hop.graded is not None) else whole
        for grade, hop in zip(group.grades, hops, strict=True)
    ]
    return endings + [whole] * (dropped.group_size - len(endings))

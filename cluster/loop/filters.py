"""Which groups teach too little to be trained, and when that is certain before all of a group is there."""

from dataclasses import dataclass

from cluster.types import FinishReason, Group

NO_SIGNAL = "no_signal"
TRUNCATED = "truncated"
TOO_HARD = "too_hard"
TOO_EASY = "too_easy"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFilter:
    """The bounds that a group must keep; rewards are 0 to 1. As built, it lets every group pass.

    That groups whose rewards are all equal are replaced by others is DAPO's dynamic sampling (Yu et al. 2025,
    arXiv:2503.14476, section 3.2).
    """

    drop_without_signal: bool = False
    max_truncated_share: float = 1.0  # of the group's completions, those that were cut at their length
    min_mean_reward: float = 0.0
    max_mean_reward: float = 1.0

    def reason(self, group: Group) -> str | None:
        """Why a whole group is left out, None where it is kept. A group of which nothing was graded is not its business."""
        if not group.rewards:
            return None
        return self._beyond_bounds(group, len(group.completions)) or (
            NO_SIGNAL if self.drop_without_signal and not group.has_signal else None
        )

    def foregone(self, graded: Group, group_size: int) -> str | None:
        """Why a group of ``group_size`` will be left out whatever those of its completions are that ``graded`` lacks."""
        return self._beyond_bounds(graded, group_size)

    def _beyond_bounds(self, group: Group, group_size: int) -> str | None:
        num_truncated = sum(completion.finish_reason is FinishReason.LENGTH for completion in group.completions)
        if num_truncated > self.max_truncated_share * group_size:
            return TRUNCATED
        # What could not be graded does not count, but what is still to come may earn anything between 0 and 1.
        num_open = group_size - len(group.completions)
        num_counted = len(group.rewards) + num_open
        total = sum(group.rewards)
        if num_counted and (total + num_open) / num_counted < self.min_mean_reward:
            return TOO_HARD
        if num_counted and total / num_counted > self.max_mean_reward:
            return TOO_EASY
        return None

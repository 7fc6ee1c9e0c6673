"""Group filters: drop groups with little to learn from, before the whole group is sampled if that is certain."""

from dataclasses import dataclass

from cluster.types import DropReason, FinishReason, Group


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFilter:
    """Bounds on a group; rewards are 0 to 1. The defaults keep every group.

    Replacing groups whose rewards are all equal is DAPO's dynamic sampling (Yu et al. 2025, arXiv:2503.14476, section 3.2).
    """

    drop_without_signal: bool = False
    max_truncated_share: float = 1.0  # share of the group's completions that hit the length limit
    min_mean_reward: float = 0.0
    max_mean_reward: float = 1.0

    def reason(self, group: Group) -> DropReason | None:
        """Return why a complete group is dropped; None if it is kept, or if no completion has a grade."""
        if not group.rewards:
            return None
        return self._beyond_bounds(group, len(group.completions)) or (
            DropReason.NO_SIGNAL if self.drop_without_signal and not group.has_signal else None
        )

    def early_reason(self, graded: Group, group_size: int) -> DropReason | None:
        """Return the reason to drop a group of ``group_size`` if the completions that ``graded`` lacks cannot change it."""
        return self._beyond_bounds(graded, group_size)

    def _beyond_bounds(self, group: Group, group_size: int) -> DropReason | None:
        num_truncated = sum(completion.finish_reason is FinishReason.LENGTH for completion in group.completions)
        if num_truncated > self.max_truncated_share * group_size:
            return DropReason.TRUNCATED
        # Ungradable completions do not count; completions that are still open may earn anything between 0 and 1.
        num_open = group_size - len(group.completions)
        num_counted = len(group.rewards) + num_open
        total = sum(group.rewards)
        if num_counted and (total + num_open) / num_counted < self.min_mean_reward:
            return DropReason.TOO_HARD
        if num_counted and total / num_counted > self.max_mean_reward:
            return DropReason.TOO_EASY
        return None

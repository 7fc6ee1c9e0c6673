"""What another reward would change, in figures: means, groups without signal, and the order within groups. Pure."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

from cluster.types import RewardTerms, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Regraded:
    """One completion under both rewards."""

    group_id: str
    completion_id: str
    verdict: Verdict
    num_code_lines: int
    old_reward: float
    new_reward: float
    old_terms: RewardTerms
    new_terms: RewardTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Pairs of completions of one group, by how two rewards order them."""

    same: int = 0
    flipped: int = 0
    newly_tied: int = 0
    newly_ordered: int = 0
    tied: int = 0  # under both

    def __add__(self, other: "Pairs") -> "Pairs":
        return Pairs(
            same=self.same + other.same,
            flipped=self.flipped + other.flipped,
            newly_tied=self.newly_tied + other.newly_tied,
            newly_ordered=self.newly_ordered + other.newly_ordered,
            tied=self.tied + other.tied,
        )

    @property
    def total(self) -> int:
        """How many pairs there are."""
        return self.same + self.flipped + self.newly_tied + self.newly_ordered + self.tied

    @property
    def tau_b(self) -> float | None:
        """Kendall's tau-b, -1 to 1; None where one of the rewards ties everything (M. G. Kendall, Biometrika 1945)."""
        ordered = self.same + self.flipped
        scale = (ordered + self.newly_tied) * (ordered + self.newly_ordered)
        return (self.same - self.flipped) / sqrt(scale) if scale else None


@dataclass(frozen=True, slots=True, kw_only=True)
class OfVerdict:
    """The completions of one verdict."""

    verdict: Verdict
    num_completions: int
    old_mean: float
    new_mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """A run under its stored reward and under another one; shares are 0 to 1."""

    num_completions: int
    num_groups: int
    old_mean: float
    new_mean: float
    old_without_signal: float  # share of groups
    new_without_signal: float
    mean_tau_b: float | None  # over the groups that both rewards order; None where there is none
    num_ranked_groups: int  # how many those are
    best_changes: float  # share of groups in which no completion is best under both
    pairs: Pairs  # over all groups
    by_verdict: tuple[OfVerdict, ...]
    largest_change: float  # of a completion's reward, either way


def compare(completions: Sequence[Regraded]) -> Figures:
    """The figures of at least one completion; completions of a group need not stand together."""
    groups: dict[str, list[Regraded]] = defaultdict(list)
    for completion in completions:
        groups[completion.group_id].append(completion)
    rewards = [([one.old_reward for one in group], [one.new_reward for one in group]) for group in groups.values()]
    pairs = [count_pairs(old, new) for old, new in rewards]
    taus = [tau for tau in (counted.tau_b for counted in pairs) if tau is not None]
    return Figures(
        num_completions=len(completions),
        num_groups=len(groups),
        old_mean=statistics.fmean(one.old_reward for one in completions),
        new_mean=statistics.fmean(one.new_reward for one in completions),
        old_without_signal=statistics.fmean(not _has_signal(old) for old, _ in rewards),
        new_without_signal=statistics.fmean(not _has_signal(new) for _, new in rewards),
        mean_tau_b=statistics.fmean(taus) if taus else None,
        num_ranked_groups=len(taus),
        best_changes=statistics.fmean(not _best(old) & _best(new) for old, new in rewards),
        pairs=sum(pairs, Pairs()),
        by_verdict=tuple(_by_verdict(completions)),
        largest_change=max(abs(one.new_reward - one.old_reward) for one in completions),
    )


def count_pairs(old: Sequence[float], new: Sequence[float]) -> Pairs:
    """How two rewards of the same completions order each pair of them."""
    same = flipped = newly_tied = newly_ordered = tied = 0
    for (old_a, new_a), (old_b, new_b) in combinations(zip(old, new, strict=True), 2):
        before, after = old_a - old_b, new_a - new_b
        if before and after:
            same += (before > 0) == (after > 0)
            flipped += (before > 0) != (after > 0)
        else:
            newly_tied += bool(before)
            newly_ordered += bool(after)
            tied += not before and not after
    return Pairs(same=same, flipped=flipped, newly_tied=newly_tied, newly_ordered=newly_ordered, tied=tied)


def _has_signal(rewards: Sequence[float]) -> bool:
    """As Group.has_signal."""
    return max(rewards) - min(rewards) > 1e-6


def _best(rewards: Sequence[float]) -> set[int]:
    return {index for index, reward in enumerate(rewards) if reward == max(rewards)}


def _by_verdict(completions: Sequence[Regraded]) -> Iterable[OfVerdict]:
    for verdict in Verdict:
        group = [one for one in completions if one.verdict is verdict]
        if group:
            yield OfVerdict(
                verdict=verdict,
                num_completions=len(group),
                old_mean=statistics.fmean(one.old_reward for one in group),
                new_mean=statistics.fmean(one.new_reward for one in group),
            )

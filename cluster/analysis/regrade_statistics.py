"""Statistics of a re-scored run: means, groups without signal, and rank agreement within groups. Pure functions."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

from cluster.types import RewardTerms, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescored:
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
class PairCounts:
    """Number of pairs of completions within groups, by their order under the two rewards."""

    concordant: int = 0
    discordant: int = 0
    tied_in_new: int = 0  # only under the new reward
    tied_in_old: int = 0  # only under the old reward
    tied_in_both: int = 0

    def __add__(self, other: "PairCounts") -> "PairCounts":
        return PairCounts(
            concordant=self.concordant + other.concordant,
            discordant=self.discordant + other.discordant,
            tied_in_new=self.tied_in_new + other.tied_in_new,
            tied_in_old=self.tied_in_old + other.tied_in_old,
            tied_in_both=self.tied_in_both + other.tied_in_both,
        )

    @property
    def total(self) -> int:
        """Number of pairs."""
        return self.concordant + self.discordant + self.tied_in_new + self.tied_in_old + self.tied_in_both

    @property
    def tau_b(self) -> float | None:
        """Kendall's tau-b, -1 to 1; None if one of the rewards ties every pair (M. G. Kendall, Biometrika 1945)."""
        untied = self.concordant + self.discordant
        scale = (untied + self.tied_in_new) * (untied + self.tied_in_old)
        return (self.concordant - self.discordant) / sqrt(scale) if scale else None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictMeans:
    """Mean rewards of the completions with one verdict."""

    verdict: Verdict
    num_completions: int
    old_mean: float
    new_mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardComparison:
    """A run under its stored reward (old) and under another one (new); shares are 0 to 1."""

    num_completions: int
    num_groups: int
    old_mean: float
    new_mean: float
    old_without_signal: float  # share of groups
    new_without_signal: float  # share of groups
    mean_tau_b: float | None  # over the ranked groups; None if there are none
    num_ranked_groups: int  # groups in which neither reward ties every pair
    best_changed_share: float  # share of groups in which no completion is best under both rewards
    pairs: PairCounts  # over all groups
    by_verdict: tuple[VerdictMeans, ...]
    largest_change: float  # largest absolute change of a completion's reward


def compare_rewards(completions: Sequence[Rescored]) -> RewardComparison:
    """Compare the rewards of at least one completion; the completions of a group may be in any order."""
    groups: dict[str, list[Rescored]] = defaultdict(list)
    for completion in completions:
        groups[completion.group_id].append(completion)
    rewards = [
        ([completion.old_reward for completion in group], [completion.new_reward for completion in group])
        for group in groups.values()
    ]
    pairs = [count_pairs(old, new) for old, new in rewards]
    taus = [tau for tau in (counts.tau_b for counts in pairs) if tau is not None]
    return RewardComparison(
        num_completions=len(completions),
        num_groups=len(groups),
        old_mean=statistics.fmean(completion.old_reward for completion in completions),
        new_mean=statistics.fmean(completion.new_reward for completion in completions),
        old_without_signal=statistics.fmean(not _has_signal(old) for old, _ in rewards),
        new_without_signal=statistics.fmean(not _has_signal(new) for _, new in rewards),
        mean_tau_b=statistics.fmean(taus) if taus else None,
        num_ranked_groups=len(taus),
        best_changed_share=statistics.fmean(not _best(old) & _best(new) for old, new in rewards),
        pairs=sum(pairs, PairCounts()),
        by_verdict=tuple(_by_verdict(completions)),
        largest_change=max(abs(completion.new_reward - completion.old_reward) for completion in completions),
    )


def count_pairs(old: Sequence[float], new: Sequence[float]) -> PairCounts:
    """Count the pairs of a group's completions by their order under the two rewards."""
    concordant = discordant = tied_in_new = tied_in_old = tied_in_both = 0
    for (old_a, new_a), (old_b, new_b) in combinations(zip(old, new, strict=True), 2):
        old_difference, new_difference = old_a - old_b, new_a - new_b
        if old_difference and new_difference:
            concordant += (old_difference > 0) == (new_difference > 0)
            discordant += (old_difference > 0) != (new_difference > 0)
        else:
            tied_in_new += bool(old_difference)
            tied_in_old += bool(new_difference)
            tied_in_both += not old_difference and not new_difference
    return PairCounts(
        concordant=concordant,
        discordant=discordant,
        tied_in_new=tied_in_new,
        tied_in_old=tied_in_old,
        tied_in_both=tied_in_both,
    )


def _has_signal(rewards: Sequence[float]) -> bool:
    """Apply the rule of Group.has_signal."""
    return max(rewards) - min(rewards) > 1e-6


def _best(rewards: Sequence[float]) -> set[int]:
    return {index for index, reward in enumerate(rewards) if reward == max(rewards)}


def _by_verdict(completions: Sequence[Rescored]) -> Iterable[VerdictMeans]:
    for verdict in Verdict:
        of_verdict = [completion for completion in completions if completion.verdict is verdict]
        if of_verdict:
            yield VerdictMeans(
                verdict=verdict,
                num_completions=len(of_verdict),
                old_mean=statistics.fmean(completion.old_reward for completion in of_verdict),
                new_mean=statistics.fmean(completion.new_reward for completion in of_verdict),
            )

"""Selection of the completions and tokens of a step that enter the loss, with their advantages."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.errors import LearnerError
from cluster.types import Completion, DropReason, FinishReason, Grade, Group
from learner.batch.advantages import group_advantages
from learner.settings import LearnerSettings

EXCLUDED_BY_SETTINGS = (DropReason.MASKED_TRUNCATED, DropReason.BELOW_THRESHOLD, DropReason.NOT_IN_TOP_K)
"""Exclusion reasons that come from settings; the other reasons are "ungradable", "empty" and "stale"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One completion that enters the loss."""

    completion_id: str
    prompt_ids: tuple[int, ...]  # [P]
    token_ids: tuple[int, ...]  # [T]
    sampler_logprobs: tuple[float, ...]  # [T]
    is_fresh: tuple[bool, ...]  # [T], True for tokens that enter the loss; at least one does
    advantage: float
    temperature: float  # of the sampling

    @property
    def num_fresh(self) -> int:
        """Number of tokens that enter the loss."""
        return sum(self.is_fresh)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Completions of a step that enter the loss, and those that are excluded."""

    rows: tuple[Row, ...]  # in the order of the groups
    excluded: dict[str, DropReason]  # by completion id
    stale_share: float  # stale tokens among the tokens of all graded completions


def select(
    groups: Sequence[Group], *, settings: LearnerSettings, learner_version: int, max_staleness: int, temperature: float
) -> Selection:
    """Select from whole groups the completions for a learner at a version.

    ``temperature`` is used for completions that record no temperature. An excluded completion still counts in the baseline of
    its group, unless it is ungradable and has no reward. The result has no rows when the settings exclude every completion.
    Raises LearnerError when all are excluded for other reasons.
    """
    advantages = group_advantages(
        [[None if grade is None else grade.reward for grade in group.grades] for group in groups],
        scale=settings.scale_rewards,
    )
    rows: list[Row] = []
    excluded: dict[str, DropReason] = {}
    num_tokens = num_fresh = 0
    for group, group_advantage in zip(groups, advantages, strict=True):
        fresh = [
            fresh_tokens(completion.token_versions, learner_version=learner_version, max_staleness=max_staleness)
            for completion in group.completions
        ]
        reasons = _reasons(group, fresh, settings)
        for completion, is_fresh, advantage, reason in zip(
            group.completions, fresh, group_advantage, reasons, strict=True
        ):
            if reason:
                excluded[completion.id] = reason
            else:
                rows.append(_row(completion, is_fresh, advantage * settings.reward_weight, temperature))
        graded = [is_fresh for is_fresh, grade in zip(fresh, group.grades, strict=True) if grade is not None]
        num_tokens += sum(map(len, graded))
        num_fresh += sum(map(sum, graded))
    if not rows and not any(reason in EXCLUDED_BY_SETTINGS for reason in excluded.values()):
        counts = ", ".join(f"{number} {reason}" for reason, number in Counter(excluded.values()).items())
        raise LearnerError(
            f"nothing to learn from: no completion of {len(groups)} groups enters the loss ({counts or 'there is none'})"
        )
    return Selection(rows=tuple(rows), excluded=excluded, stale_share=1 - num_fresh / num_tokens)


def fresh_tokens(token_versions: Sequence[int], *, learner_version: int, max_staleness: int) -> tuple[bool, ...]:
    """Mark the tokens that were sampled at most ``max_staleness`` versions before ``learner_version``; ``[T]``."""
    return tuple(learner_version - version <= max_staleness for version in token_versions)


def best(rewards: Sequence[float | None], k: int) -> set[int]:
    """Return the indices of the k highest rewards, of equal rewards the first; rewards of None are skipped."""
    ranked = sorted((-reward, index) for index, reward in enumerate(rewards) if reward is not None)
    return {index for _, index in ranked[:k]}


def _reasons(group: Group, fresh: Sequence[Sequence[bool]], settings: LearnerSettings) -> list[DropReason | None]:
    """Return each completion's exclusion reason, ``[G]``; None for those that enter the loss."""
    reasons = [
        _own_reason(completion, grade, is_fresh, settings)
        for completion, grade, is_fresh in zip(group.completions, group.grades, fresh, strict=True)
    ]
    if settings.train_top_k is None:
        return reasons
    # The top k of those that can enter the loss: an excluded completion must not take a place.
    chosen = best(
        [
            None if reason or grade is None else grade.reward
            for reason, grade in zip(reasons, group.grades, strict=True)
        ],
        settings.train_top_k,
    )
    return [reason or (None if index in chosen else DropReason.NOT_IN_TOP_K) for index, reason in enumerate(reasons)]


def _own_reason(
    completion: Completion, grade: Grade | None, is_fresh: Sequence[bool], settings: LearnerSettings
) -> DropReason | None:
    """Return a completion's exclusion reason, apart from its rank in the group; None for none."""
    if grade is None:
        return DropReason.UNGRADABLE
    if not completion.token_ids:
        return DropReason.EMPTY
    if not any(is_fresh):
        return DropReason.STALE
    if settings.mask_truncated_completions and completion.finish_reason is FinishReason.LENGTH:
        return DropReason.MASKED_TRUNCATED
    if settings.reward_threshold is not None and grade.reward < settings.reward_threshold:
        return DropReason.BELOW_THRESHOLD
    return None


def _row(completion: Completion, is_fresh: tuple[bool, ...], advantage: float, temperature: float) -> Row:
    return Row(
        completion_id=completion.id,
        prompt_ids=completion.prompt_ids,
        token_ids=completion.token_ids,
        sampler_logprobs=completion.sampler_logprobs,
        is_fresh=is_fresh,
        advantage=advantage,
        temperature=temperature if completion.temperature is None else completion.temperature,
    )

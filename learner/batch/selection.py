"""Which completions of a step enter the loss, which of their tokens, and with what advantage."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.errors import LearnerError
from cluster.types import Completion, DropReason, FinishReason, Grade, Group
from learner.batch.advantages import group_advantages
from learner.settings import LearnerSettings

EXCLUDED_BY_SETTINGS = (DropReason.MASKED_TRUNCATED, DropReason.BELOW_THRESHOLD, DropReason.NOT_IN_TOP_K)
"""Reasons why a completion that could be learned from does not enter the loss; the others are "ungradable", "empty", "stale"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One completion that enters the loss."""

    completion_id: str
    prompt_ids: tuple[int, ...]  # [P]
    token_ids: tuple[int, ...]  # [T]
    sampler_logprobs: tuple[float, ...]  # [T]
    is_fresh: tuple[bool, ...]  # [T], whether the token enters the loss; at least one does
    advantage: float
    temperature: float  # that it was sampled at

    @property
    def num_fresh(self) -> int:
        """How many tokens enter the loss."""
        return sum(self.is_fresh)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a step learns from, and what it does not."""

    rows: tuple[Row, ...]  # in the order of the groups
    excluded: dict[str, DropReason]  # by completion id
    stale_share: float  # of the tokens of all graded completions: those too old for the loss


def select(
    groups: Sequence[Group], *, settings: LearnerSettings, learner_version: int, max_staleness: int, temperature: float
) -> Selection:
    """What of whole groups a learner at a version learns from; ``temperature`` is that of completions that name none.

    A completion that is left out still counts in the baseline of its group (but for the ungradable, which have no reward): its
    reward is as good a sample as any. No row is left where the settings leave all of them out. Raises LearnerError where no
    settings could have spared one.
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
            fresh_tokens(each.token_versions, learner_version=learner_version, max_staleness=max_staleness)
            for each in group.completions
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
        reasons_there = list(excluded.values())
        counts = ", ".join(f"{reasons_there.count(one)} {one}" for one in dict.fromkeys(reasons_there))
        raise LearnerError(
            f"nothing to learn from: no completion of {len(groups)} groups enters the loss ({counts or 'none is there'})"
        )
    return Selection(rows=tuple(rows), excluded=excluded, stale_share=1 - num_fresh / num_tokens)


def fresh_tokens(token_versions: Sequence[int], *, learner_version: int, max_staleness: int) -> tuple[bool, ...]:
    """Per token, whether it was sampled at most ``max_staleness`` versions before ``learner_version``; ``[T]``."""
    return tuple(learner_version - version <= max_staleness for version in token_versions)


def best(rewards: Sequence[float | None], k: int) -> set[int]:
    """Indices of the k highest rewards, the first of equal ones; None is not among them."""
    there = [(-reward, index) for index, reward in enumerate(rewards) if reward is not None]
    return {index for _, index in sorted(there)[:k]}


def _reasons(group: Group, fresh: Sequence[Sequence[bool]], settings: LearnerSettings) -> list[DropReason | None]:
    """Why each completion does not enter the loss, ``[G]``; None where it does."""
    reasons = [
        _reason_against(completion, grade, is_fresh, settings)
        for completion, grade, is_fresh in zip(group.completions, group.grades, fresh, strict=True)
    ]
    if settings.train_top_k is None:
        return reasons
    # The best of those that can enter: what is too old, say, must not push out what could be learned from.
    chosen = best(
        [
            None if reason or grade is None else grade.reward
            for reason, grade in zip(reasons, group.grades, strict=True)
        ],
        settings.train_top_k,
    )
    return [reason or (None if index in chosen else DropReason.NOT_IN_TOP_K) for index, reason in enumerate(reasons)]


def _reason_against(
    completion: Completion, grade: Grade | None, is_fresh: Sequence[bool], settings: LearnerSettings
) -> DropReason | None:
    """Why a completion does not enter the loss, whatever others of its group are like; None where it does."""
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

"""Which completions of a step enter the loss, which of their tokens, and with what advantage."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.types import Completion, Grade, Group, LearnerError
from learner.advantages import group_advantages
from learner.settings import ScaleRewards


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One completion that enters the loss."""

    completion_id: str
    prompt_ids: tuple[int, ...]  # [P]
    token_ids: tuple[int, ...]  # [T]
    sampler_logprobs: tuple[float, ...]  # [T]
    is_fresh: tuple[bool, ...]  # [T], whether the token enters the loss; at least one does
    advantage: float

    @property
    def num_fresh(self) -> int:
        """How many tokens enter the loss."""
        return sum(self.is_fresh)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a step learns from, and what it does not."""

    rows: tuple[Row, ...]  # in the order of the groups
    left_out: dict[str, str]  # by completion id: "ungradable", "empty" (no token) or "stale" (no fresh token)
    stale_share: float  # of the tokens of all graded completions: those too old for the loss


def select(groups: Sequence[Group], *, scale: ScaleRewards, learner_version: int, max_staleness: int) -> Selection:
    """What of whole groups a learner at a version learns from.

    A completion that is left out for the age of its tokens still counts in the baseline of its group: its reward is as good a
    sample as any. Raises LearnerError where nothing is left.
    """
    advantages = group_advantages(
        [[None if grade is None else grade.reward for grade in group.grades] for group in groups], scale=scale
    )
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    num_tokens = num_fresh = 0
    for group, group_advantage in zip(groups, advantages, strict=True):
        for completion, grade, advantage in zip(group.completions, group.grades, group_advantage, strict=True):
            is_fresh = fresh_tokens(
                completion.token_versions, learner_version=learner_version, max_staleness=max_staleness
            )
            reason = _reason_against(completion, grade, is_fresh)
            if reason:
                left_out[completion.id] = reason
            else:
                rows.append(_row(completion, is_fresh, advantage))
            if grade is not None:
                num_tokens += len(is_fresh)
                num_fresh += sum(is_fresh)
    if not rows:
        reasons = ", ".join(f"{list(left_out.values()).count(one)} {one}" for one in dict.fromkeys(left_out.values()))
        raise LearnerError(
            f"nothing to learn from: no completion of {len(groups)} groups enters the loss ({reasons or 'none is there'})"
        )
    return Selection(rows=tuple(rows), left_out=left_out, stale_share=1 - num_fresh / num_tokens)


def fresh_tokens(token_versions: Sequence[int], *, learner_version: int, max_staleness: int) -> tuple[bool, ...]:
    """Per token, whether it was sampled at most ``max_staleness`` versions before ``learner_version``; ``[T]``."""
    return tuple(learner_version - version <= max_staleness for version in token_versions)


def _reason_against(completion: Completion, grade: Grade | None, is_fresh: Sequence[bool]) -> str:
    """Why a completion does not enter the loss; empty where it does."""
    if grade is None:
        return "ungradable"
    if not completion.token_ids:
        return "empty"
    return "" if any(is_fresh) else "stale"


def _row(completion: Completion, is_fresh: tuple[bool, ...], advantage: float) -> Row:
    return Row(
        completion_id=completion.id,
        prompt_ids=completion.prompt_ids,
        token_ids=completion.token_ids,
        sampler_logprobs=completion.sampler_logprobs,
        is_fresh=is_fresh,
        advantage=advantage,
    )

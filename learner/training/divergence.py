"""Divergence: a step with a non-finite or too large loss, gradient or KL is not taken, the run stops, and the batch is saved."""

import math
from collections.abc import Sequence
from pathlib import Path

from cluster.errors import LearnerError
from cluster.types import Group
from learner.batch.selection import Selection
from learner.settings import LearnerSettings

FOLDER = "diverged"  # next to the folder of the checkpoints


class Diverged(LearnerError):
    """A loss, gradient norm or KL divergence that is not finite or too large; the message names it and a mitigation."""


def check_divergence(
    settings: LearnerSettings, *, step: int, loss: float, gradient_norm: float, kl: float | None
) -> None:
    """Raise Diverged for a step that must not be taken; ``kl`` is in nats per token, None when it is not measured."""
    cause = None
    if not math.isfinite(loss) or not math.isfinite(gradient_norm):
        cause = f"loss {loss}, gradient norm {gradient_norm}"
    elif settings.stop_at_grad_norm is not None and gradient_norm > settings.stop_at_grad_norm:
        cause = f"gradient norm {gradient_norm:.4g}, above learner.stop_at_grad_norm={settings.stop_at_grad_norm:g}"
    elif settings.stop_at_kl is not None and kl is not None and not kl <= settings.stop_at_kl:
        cause = f"KL divergence {kl:.4g}, above learner.stop_at_kl={settings.stop_at_kl:g}"
    if cause:
        raise Diverged(
            f"step {step} diverged: {cause}. The step was not taken and the checkpoints are intact; resume from the last one "
            "with a lower learner.learning_rate or learner.max_grad_norm, or a higher learner.kl_coefficient"
        )


def write_diverged_batch(groups: Sequence[Group], selection: Selection, folder: Path, step: int) -> Path:
    """Write the batch of a step as Parquet, one row per completion, and return the file; raises OSError.

    The columns are those of the rollout ledger that the learner reads, and ``advantage`` (null for an excluded completion) and
    ``left_out`` (the exclusion reason).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    advantages = {row.completion_id: row.advantage for row in selection.rows}
    rows = [
        {
            "step": step,
            "problem_id": completion.problem_id,
            "group_id": group.id,
            "completion_id": completion.id,
            "total_reward": None if grade is None else grade.reward,
            "advantage": advantages.get(completion.id),
            "left_out": selection.excluded.get(completion.id),
            "finish_reason": str(completion.finish_reason),
            "temperature": completion.temperature,
            "token_versions": list(completion.token_versions),
            "prompt_ids": list(completion.prompt_ids),
            "token_ids": list(completion.token_ids),
            "sampler_logprobs": list(completion.sampler_logprobs),
            "text": completion.text,
        }
        for group in groups
        for completion, grade in zip(group.completions, group.grades, strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:06d}.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path

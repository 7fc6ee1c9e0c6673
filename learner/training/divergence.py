"""A step whose numbers went wrong: it is not taken, the run stops, and its batch is kept for whoever looks into it."""

from collections.abc import Sequence
from pathlib import Path

from cluster.errors import LearnerError
from cluster.types import Group
from learner.batch.selection import Selection

FOLDER = "diverged"  # beside the folder of the checkpoints


class Diverged(LearnerError):
    """A loss, gradient or divergence that is no number or too large; the message says which, and what may help."""


def write_diverged_batch(groups: Sequence[Group], selection: Selection, folder: Path, step: int) -> Path:
    """Write the batch of a step as Parquet, one row per completion, and return the file; raises OSError.

    Beside the columns of the rollouts' ledger that tell what the learner read, ``advantage`` (null where the completion did not
    enter the loss) and ``excluded`` (why).
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

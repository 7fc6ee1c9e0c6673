"""Settings of other configuration sections that the learner needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerPlan:
    """The model, the sampling that its completions come from, and the length of the run."""

    model: str  # a local folder or a Hugging Face id
    temperature: float  # of the sampler, and of the learner's logprobs
    max_completion_tokens: int  # divisor of dr_grpo
    max_staleness: int  # in policy versions; older tokens are masked
    max_steps: int  # batches of the whole run, and end of the learning rate schedule
    seed: int  # of the adapter's initial weights, and of dropout
    checkpoints_dir: Path
    # Tokens of the probe prompts, all of one length, that are scored under every policy to verify samplers; empty: none.
    probe_ids: tuple[tuple[int, ...], ...]
    served_dtype: str | None = (
        None  # of the samplers' weights: the dtype of published whole weights; None: the learner's
    )
    initial_adapter: Mapping[str, bytes] | None = None  # its files, by name; None: a new adapter, which changes nothing

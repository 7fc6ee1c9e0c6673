"""What the rest of the configuration tells the learner about the run."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerPlan:
    """The model, the sampling that its completions come from, and the length of the run."""

    model: str  # a local folder or a Hugging Face id
    temperature: float  # of the sampler; the learner's logprobs are taken at the same one
    max_completion_tokens: int  # what dr_grpo divides by
    max_staleness: int  # tokens sampled more versions before the policy in training do not enter the loss
    max_steps: int  # steps (batches) of the whole run: where the learning rate schedule ends
    seed: int  # of the adapter's initial weights and of dropout
    checkpoints_dir: Path
    probe_ids: tuple[int, ...]  # tokens scored under every policy, for samplers to compare with; empty: none

"""The learner: GRPO steps on a LoRA adapter through TRL, checkpoints, and the adapters handed to the samplers."""

"""GRPO steps through TRL: the model, the trainer, its thread, its process group and its checkpoints."""

"""Supervised fine-tuning on pairs of prompt and completion."""

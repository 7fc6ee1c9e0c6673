"""Samplers: vLLM engines in Ray actors that draw groups of completions under versioned LoRA adapters."""

"""From completions to micro-batches: pure functions without TRL."""

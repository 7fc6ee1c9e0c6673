"""Selection, advantages and micro-batches of completions: pure functions without TRL."""

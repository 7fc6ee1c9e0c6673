"""The run folder and the ledger of completions: what is written, and how it is read back."""

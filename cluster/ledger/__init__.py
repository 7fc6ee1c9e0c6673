"""The run directory and the ledger of completions: writing and reading."""

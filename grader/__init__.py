"""Graders: CPU workers that compile and test OCaml completions in a sandbox and turn the facts into a reward."""

"""Benchmarks, run by ``make bench-...``. Each prints tables and, as its last line, one JSON object."""

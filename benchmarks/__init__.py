"""Measurements, run by hand with ``make bench-...``; each prints a table and, as its last line, one JSON object."""

"""Caravan's own OCaml problems: families of templates, and a data file of handwritten problems."""

from cluster.problems.builtin.catalog import HANDWRITTEN, TEMPLATE_FAMILIES, builtin_problems

__all__ = ["HANDWRITTEN", "TEMPLATE_FAMILIES", "builtin_problems"]

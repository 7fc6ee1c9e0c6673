"""The built-in problem set: OCaml problems of Caravan's own, made from templates and by hand."""

from cluster.problems.builtin.catalog import FAMILIES, builtin_problems

__all__ = ["FAMILIES", "builtin_problems"]

"""All families of the built-in set, and the problems that they make."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache

from cluster.problems.builtin.draft import Draft, problem
from cluster.problems.builtin.families import (
    arithmetic,
    arrays,
    backtracking,
    bits,
    characters,
    conditions,
    counting,
    dynamic_programming,
    expressions,
    filtering,
    folding,
    formatting,
    graphs,
    higher_order,
    intervals,
    list_craft,
    mapping,
    matrices,
    number_theory,
    options,
    pairs,
    parsing,
    quantifiers,
    ranges,
    reading,
    records,
    recursion,
    sorting,
    stacks_and_queues,
    strings,
    tables,
    tree_folds,
    trees,
    truth,
    tuples,
    variants,
    word_lists,
)
from cluster.types import Problem

FAMILIES: dict[str, Callable[[], Iterator[Draft]]] = {
    "arithmetic": arithmetic.arithmetic,
    "conditions": conditions.conditions,
    "truth": truth.truth,
    "counting": counting.counting,
    "mapping": mapping.mapping,
    "filtering": filtering.filtering,
    "folding": folding.folding,
    "recursion": recursion.recursion,
    "quantifiers": quantifiers.quantifiers,
    "sorting": sorting.sorting,
    "ranges": ranges.ranges,
    "strings": strings.strings,
    "characters": characters.characters,
    "formatting": formatting.formatting,
    "reading": reading.reading,
    "word_lists": word_lists.word_lists,
    "options": options.options,
    "tuples": tuples.tuples,
    "pairs": pairs.pairs,
    "arrays": arrays.arrays,
    "variants": variants.variants,
    "records": records.records,
    "tree_folds": tree_folds.tree_folds,
    "bits": bits.bits,
    "number_theory": number_theory.number_theory,
    "tables": tables.tables,
    "stacks_and_queues": stacks_and_queues.stacks_and_queues,
    "matrices": matrices.matrices,
    "intervals": intervals.intervals,
    "list_craft": list_craft.list_craft,
    "parsing": parsing.parsing,
    "expressions": expressions.expressions,
    "trees": trees.trees,
    "higher_order": higher_order.higher_order,
    "dynamic_programming": dynamic_programming.dynamic_programming,
    "backtracking": backtracking.backtracking,
    "graphs": graphs.graphs,
}


def builtin_problems() -> list[Problem]:
    """The built-in problems, always the same ones in the same order; ids are ``family-function-number``."""
    return list(_problems())


@cache
def _problems() -> tuple[Problem, ...]:
    made = []
    for family, drafts in FAMILIES.items():
        used: Counter[str] = Counter()
        for draft in drafts():
            used[draft.name] += 1
            made.append(problem(draft, f"{family}-{draft.name}-{used[draft.name]:02d}"))
    return tuple(made)

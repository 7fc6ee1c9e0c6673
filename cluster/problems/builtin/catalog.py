"""The built-in problem set: template families, then the handwritten problems of a data file."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from cluster.problems.builtin.draft import Draft, make_problem
from cluster.problems.builtin.families import (
    arithmetic,
    arrays,
    characters,
    conditions,
    counting,
    filtering,
    folding,
    formatting,
    mapping,
    options,
    pairs,
    quantifiers,
    ranges,
    reading,
    records,
    recursion,
    sorting,
    strings,
    tree_folds,
    truth,
    tuples,
    variants,
    word_lists,
)
from cluster.types import Problem
from grader.signature import split_prompt

TEMPLATE_FAMILIES: dict[str, Callable[[], Iterator[Draft]]] = {
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
}


HANDWRITTEN = Path(__file__).with_name("handwritten.jsonl")


def builtin_problems() -> list[Problem]:
    """Return the built-in problems, always in the same order; ids are ``family-function-number``."""
    return list(_problems())


@cache
def _problems() -> tuple[Problem, ...]:
    return (*_from_templates(), *_handwritten())


def _from_templates() -> Iterator[Problem]:
    for family, drafts in TEMPLATE_FAMILIES.items():
        num_made: Counter[str] = Counter()
        for draft in drafts():
            num_made[draft.name] += 1
            yield make_problem(draft, f"{family}-{draft.name}-{num_made[draft.name]:02d}")


def _handwritten() -> Iterator[Problem]:
    # Only "\n" ends a row of JSONL; str.splitlines would also cut at U+2028.
    for line in HANDWRITTEN.read_text(encoding="utf-8").removesuffix("\n").split("\n"):
        row = json.loads(line)
        statement, signature = split_prompt(row["prompt"])
        yield Problem(
            id=row["id"],
            statement=statement,
            signature=signature,
            tests=row["tests"],
            difficulty=row["difficulty"],
            solution=row["solution"],
        )

"""Whether all, some or none of the items are so."""

from collections.abc import Iterator

from cluster.problems.builtin import phrases
from cluster.problems.builtin.domains import ITEMS, KINDS, Domain, leaning, list_of
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.phrases import Phrase, around

# What a list of each kind is called in words, and its domain.


def quantifiers() -> Iterator[Draft]:
    """Whether all, some or none of the items are so."""
    for kind, tests in (("int", phrases.TESTS), ("string", phrases.STRING_TESTS), ("char", phrases.CHAR_TESTS)):
        for test in tests:
            yield _every(kind, test)
            yield _some(kind, test)
            yield _none(kind, test)


def _every(kind: str, test: Phrase) -> Draft:
    about = f"Whether all {KINDS[kind][0]} of a list are {test.words}."
    body = f"List.for_all (fun x -> {test.code('x')}) xs"
    return Draft("all_are", about, {"xs": _leaning(kind, test, 0.8)}, "bool", body, lambda xs: all(map(test.apply, xs)))


def _some(kind: str, test: Phrase) -> Draft:
    about = f"Whether some of the {KINDS[kind][0]} of a list are {test.words}."
    body = f"List.exists (fun x -> {test.code('x')}) xs"
    return Draft(
        "some_are", about, {"xs": _leaning(kind, test, 0.3)}, "bool", body, lambda xs: any(map(test.apply, xs))
    )


def _none(kind: str, test: Phrase) -> Draft:
    about = f"Whether none of the {KINDS[kind][0]} of a list are {test.words}."
    body = f"not (List.exists (fun x -> {test.code('x')}) xs)"
    return Draft(
        "none_are", about, {"xs": _leaning(kind, test, 0.2)}, "bool", body, lambda xs: not any(map(test.apply, xs))
    )


def _leaning(kind: str, test: Phrase, share: float) -> Domain:
    """Short lists of items of which about this share is as the test asks, so that both answers have a fair chance."""
    lists = list_of(leaning(ITEMS[kind], test.apply, share), longest=3)
    return lists.beginning([], *([n] for n in around(test.apply).edges)) if kind == "int" else lists

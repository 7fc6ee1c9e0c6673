"""Conditions that hold for all, some or none of the items."""

from collections.abc import Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import ITEMS, KINDS, Domain, biased, list_of
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation, balanced_ints


def quantifiers() -> Iterator[Draft]:
    """Conditions that hold for all, some or none of the items."""
    for kind, tests in (
        ("int", operations.TESTS),
        ("string", operations.STRING_TESTS),
        ("char", operations.CHAR_TESTS),
    ):
        for test in tests:
            yield _every(kind, test)
            yield _some(kind, test)
            yield _none(kind, test)


def _every(kind: str, test: Operation) -> Draft:
    about = f"Whether all {KINDS[kind][0]} of a list are {test.words}."
    body = f"List.for_all (fun x -> {test.code('x')}) xs"
    return Draft(
        "all_are", about, {"xs": _biased_list(kind, test, 0.8)}, "bool", body, lambda xs: all(map(test.apply, xs))
    )


def _some(kind: str, test: Operation) -> Draft:
    about = f"Whether some of the {KINDS[kind][0]} of a list are {test.words}."
    body = f"List.exists (fun x -> {test.code('x')}) xs"
    return Draft(
        "some_are", about, {"xs": _biased_list(kind, test, 0.3)}, "bool", body, lambda xs: any(map(test.apply, xs))
    )


def _none(kind: str, test: Operation) -> Draft:
    about = f"Whether none of the {KINDS[kind][0]} of a list are {test.words}."
    body = f"not (List.exists (fun x -> {test.code('x')}) xs)"
    return Draft(
        "none_are", about, {"xs": _biased_list(kind, test, 0.2)}, "bool", body, lambda xs: not any(map(test.apply, xs))
    )


def _biased_list(kind: str, test: Operation, share: float) -> Domain:
    """Return short lists; about ``share`` of the items pass the test, so that both answers are likely."""
    lists = list_of(biased(ITEMS[kind], test.apply, share), longest=3)
    return lists.with_edges([], *([n] for n in balanced_ints(test.apply).edges)) if kind == "int" else lists

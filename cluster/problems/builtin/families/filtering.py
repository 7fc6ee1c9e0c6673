"""Keeping or dropping items."""

from collections.abc import Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import KINDS
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation, combinations


def filtering() -> Iterator[Draft]:
    """Keeping or dropping items."""
    for kind, tests in (
        ("int", operations.TESTS),
        ("string", operations.STRING_TESTS),
        ("char", operations.CHAR_TESTS),
    ):
        for test in tests:
            yield _keep(kind, test)
            yield _drop(kind, test)
    for test, change in combinations("filtering-keep_map", 60, operations.TESTS, operations.MAPS):
        yield _keep_map("int", test, change)
    for test, change in combinations("filtering-keep_map-words", 40, operations.STRING_TESTS, operations.STRING_MAPS):
        yield _keep_map("string", test, change)


def _keep(kind: str, test: Operation) -> Draft:
    words, domain = KINDS[kind]
    about = f"The {words} of a list that are {test.words}."
    body = f"List.filter (fun x -> {test.code('x')}) xs"
    return Draft("keep", about, {"xs": domain}, domain.type, body, lambda xs: [x for x in xs if test.apply(x)])


def _drop(kind: str, test: Operation) -> Draft:
    words, domain = KINDS[kind]
    about = f"The {words} of a list without those that are {test.words}."
    body = f"List.filter (fun x -> not ({test.code('x')})) xs"
    return Draft("drop", about, {"xs": domain}, domain.type, body, lambda xs: [x for x in xs if not test.apply(x)])


def _keep_map(kind: str, test: Operation, change: Operation) -> Draft:
    words, domain = KINDS[kind]
    about = f"The {words} of a list that are {test.words}, each {change.words}."
    body = f"List.map (fun x -> {change.code('x')}) (List.filter (fun x -> {test.code('x')}) xs)"
    return Draft(
        "keep_map", about, {"xs": domain}, domain.type, body, lambda xs: [change.apply(x) for x in xs if test.apply(x)]
    )

"""One change to every item."""

from collections.abc import Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import INTS, KINDS
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation, combinations


def mapping() -> Iterator[Draft]:
    """One change to every item."""
    for change in operations.MAPS:
        yield _map("int", change)
    for change in operations.STRING_MAPS:
        yield _map("string", change)
    for change in (operations.CHAR_UPPER, operations.CHAR_LOWER):
        yield _map("char", change)
    for test, yes in combinations("mapping-if", 45, operations.TESTS, operations.MAPS):
        if operations.has_effect(test, yes):
            yield _map_if(test, yes)
    for k in range(2, 8):
        yield _with_index(k)


def _map(kind: str, change: Operation) -> Draft:
    words, domain = KINDS[kind]
    about = f"The {words} of a list, each {change.words}."
    body = f"List.map (fun x -> {change.code('x')}) xs"
    return Draft("map_all", about, {"xs": domain}, domain.type, body, lambda xs: [change.apply(x) for x in xs])


def _map_if(test: Operation, yes: Operation) -> Draft:
    about = f"The numbers of a list, those that are {test.words} {yes.words}."
    body = f"List.map (fun x -> if {test.code('x')} then {yes.code('x')} else x) xs"
    return Draft(
        "map_some", about, {"xs": INTS}, "int list", body, lambda xs: [yes.apply(x) if test.apply(x) else x for x in xs]
    )


def _with_index(k: int) -> Draft:
    about = f"Add to every number {k} times its position, counted from 0."
    body = f"List.mapi (fun i x -> x + {k} * i) xs"
    return Draft("add_index", about, {"xs": INTS}, "int list", body, lambda xs: [x + k * i for i, x in enumerate(xs)])

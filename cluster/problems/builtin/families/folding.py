"""Folds of a list to one value."""

from collections.abc import Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import INTS, KINDS, STRINGS
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation, combinations


def folding() -> Iterator[Draft]:
    """Folds of a list to one value."""
    for change in operations.MAPS:
        yield _sum("int", "numbers", change)
    for test in operations.TESTS:
        yield _sum_kept(test)
    for kind, tests in (
        ("int", operations.TESTS),
        ("string", operations.STRING_TESTS),
        ("char", operations.CHAR_TESTS),
    ):
        for test in tests:
            yield _count(kind, test)
    for test, change in combinations("folding-sum_changed", 40, operations.TESTS, operations.MAPS):
        yield _sum_changed(test, change)
    for start in range(1, 9):
        yield _difference(start)
        yield _largest(start)
        yield _product(start)
    for test in operations.STRING_TESTS:
        yield _join_kept(test)
    for separator in ",-/+.;":
        yield _joined(separator)


def _sum(kind: str, words: str, change: Operation) -> Draft:
    about = f"The sum of the {words} of a list, each {change.words}."
    body = f"List.fold_left (fun acc x -> acc + ({change.code('x')})) 0 xs"
    return Draft("total", about, {"xs": KINDS[kind][1]}, "int", body, lambda xs: sum(change.apply(x) for x in xs))


def _sum_kept(test: Operation) -> Draft:
    about = f"The sum of the numbers of a list that are {test.words}."
    body = f"List.fold_left (fun acc x -> if {test.code('x')} then acc + x else acc) 0 xs"
    return Draft("total_kept", about, {"xs": INTS}, "int", body, lambda xs: sum(x for x in xs if test.apply(x)))


def _count(kind: str, test: Operation) -> Draft:
    words, domain = KINDS[kind]
    about = f"How many {words} of a list are {test.words}."
    body = f"List.length (List.filter (fun x -> {test.code('x')}) xs)"
    return Draft("count", about, {"xs": domain}, "int", body, lambda xs: sum(map(test.apply, xs)))


def _sum_changed(test: Operation, change: Operation) -> Draft:
    about = f"The sum of the numbers of a list that are {test.words}, each {change.words}."
    body = f"List.fold_left (fun acc x -> if {test.code('x')} then acc + ({change.code('x')}) else acc) 0 xs"
    return Draft(
        "total_changed", about, {"xs": INTS}, "int", body, lambda xs: sum(change.apply(x) for x in xs if test.apply(x))
    )


def _difference(start: int) -> Draft:
    about = f"{start * 10} minus all numbers of a list."
    body = f"List.fold_left (fun acc x -> acc - x) {start * 10} xs"
    return Draft("take_away", about, {"xs": INTS}, "int", body, lambda xs: start * 10 - sum(xs))


def _largest(start: int) -> Draft:
    about = f"The largest number of a list, {start} where none is larger."
    return Draft("largest", about, {"xs": INTS}, "int", f"List.fold_left max {start} xs", lambda xs: max([start, *xs]))


def _product(start: int) -> Draft:
    about = f"The product of the numbers of a list and {start}."
    params = {"xs": INTS}
    return Draft(
        "product",
        about,
        params,
        "int",
        f"List.fold_left (fun acc x -> acc * x) {start} xs",
        lambda xs: _times(start, xs),
    )


def _times(start: int, xs: list[int]) -> int:
    for x in xs:
        start *= x
    return start


def _join_kept(test: Operation) -> Draft:
    about = f"The words of a list that are {test.words}, joined."
    body = f'String.concat "" (List.filter (fun x -> {test.code("x")}) xs)'
    return Draft("join_kept", about, {"xs": STRINGS}, "string", body, lambda xs: "".join(filter(test.apply, xs)))


def _joined(separator: str) -> Draft:
    about = f'The words of a list, joined by "{separator}".'
    return Draft("joined", about, {"xs": STRINGS}, "string", f'String.concat "{separator}" xs', separator.join)

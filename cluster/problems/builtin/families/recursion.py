"""Recursion over a list by pattern matching."""

from collections.abc import Callable, Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import INTS, Domain, ints, list_of
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation


def recursion() -> Iterator[Draft]:
    """Recursion over a list by pattern matching."""
    for change in operations.MAPS:
        yield _rec_map(change)
    for test in operations.TESTS:
        yield _rec_keep(test)
        yield _rec_count(test)
        yield _rec_while(test)
        yield _rec_after(test)
    for change in operations.MAPS:
        yield _rec_sum(change)
    for k in range(10):
        yield _rec_between(k)
        yield _rec_without(k)
    for k in range(2, 5):
        yield _rec_every(k)


def _rec(
    name: str, about: str, empty: str, step: str, reference: Callable[..., object], result: str = "int list"
) -> Draft:
    body = f"match xs with\n| [] -> {empty}\n| x :: rest -> {step}"
    return Draft(name, about, {"xs": INTS}, result, body, reference, rec=True)


def _rec_map(change: Operation) -> Draft:
    about = f"Every number of a list {change.words}, by recursion."
    step = f"({change.code('x')}) :: change rest"
    return _rec("change", about, "[]", step, lambda xs: [change.apply(x) for x in xs])


def _rec_keep(test: Operation) -> Draft:
    about = f"Only the numbers that are {test.words}, by recursion."
    step = f"if {test.code('x')} then x :: only rest else only rest"
    return _rec("only", about, "[]", step, lambda xs: [x for x in xs if test.apply(x)])


def _rec_count(test: Operation) -> Draft:
    about = f"The number of items that are {test.words}, by recursion."
    step = f"(if {test.code('x')} then 1 else 0) + number rest"
    return _rec("number", about, "0", step, lambda xs: sum(map(test.apply, xs)), "int")


def _rec_while(test: Operation) -> Draft:
    about = f"The numbers at the start of a list, as long as they are {test.words}."
    step = f"if {test.code('x')} then x :: prefix rest else []"
    return _rec("prefix", about, "[]", step, lambda xs: xs[: _first_failure(test, xs)])


def _rec_after(test: Operation) -> Draft:
    about = f"What is left of a list after dropping numbers from its start as long as they are {test.words}."
    step = f"if {test.code('x')} then suffix rest else xs"
    return _rec("suffix", about, "[]", step, lambda xs: xs[_first_failure(test, xs) :])


def _first_failure(test: Operation, xs: list[int]) -> int:
    return next((i for i, x in enumerate(xs) if not test.apply(x)), len(xs))


def _rec_sum(change: Operation) -> Draft:
    about = f"All numbers of a list {change.words} and added up, by recursion."
    step = f"({change.code('x')}) + add_up rest"
    return _rec("add_up", about, "0", step, lambda xs: sum(change.apply(x) for x in xs), "int")


def _rec_between(k: int) -> Draft:
    about = f"A list with {k} put after every item."
    return _rec("weave", about, "[]", f"x :: {k} :: weave rest", lambda xs: [y for x in xs for y in (x, k)])


def _rec_without(k: int) -> Draft:
    about = f"A list without the first {k} in it."
    body = f"match xs with\n| [] -> []\n| x :: rest -> if x = {k} then rest else x :: without rest"
    small = {"xs": _near(k)}
    return Draft("without", about, small, "int list", body, lambda xs: _without_first(xs, k), rec=True)


def _near(k: int) -> Domain:
    return list_of(ints(max(0, k - 1), k + 2), longest=6)


def _without_first(xs: list[int], k: int) -> list[int]:
    at = xs.index(k) if k in xs else len(xs)
    return xs[:at] + xs[at + 1 :]


def _rec_every(k: int) -> Draft:
    about = f"Every item of a list {k} times in a row."
    step = " :: ".join(["x"] * k) + " :: repeat rest"
    return _rec("repeat", about, "[]", step, lambda xs: [x for x in xs for _ in range(k)])

"""Lists made from a length."""

from collections.abc import Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import ints
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation, combinations


def ranges() -> Iterator[Draft]:
    """Lists made from a length."""
    for change in operations.MAPS:
        yield _range(change)
    for test in operations.TESTS:
        if len({test.apply(n) for n in range(1, 10)}) == 2:
            yield _range_kept(test)
    for start, step in combinations("ranges-steps", 24, range(10), range(2, 9)):
        yield _steps(start, step)
    for k in range(2, 10):
        yield _multiples(k)


def _range(change: Operation) -> Draft:
    about = f"The numbers 0 to n - 1, each {change.words}."
    body = f"List.init n (fun i -> {change.code('i')})"
    params = {"n": ints(1, 7, 0)}
    return Draft("numbers", about, params, "int list", body, lambda n: [change.apply(i) for i in range(n)])


def _range_kept(test: Operation) -> Draft:
    about = f"Those of the numbers 0 to n - 1 that are {test.words}."
    body = f"List.filter (fun i -> {test.code('i')}) (List.init n (fun i -> i))"
    params = {"n": ints(1, 12, 0)}
    return Draft("kept_numbers", about, params, "int list", body, lambda n: [i for i in range(n) if test.apply(i)])


def _steps(start: int, step: int) -> Draft:
    about = f"The first n numbers from {start} in steps of {step}."
    body = f"List.init n (fun i -> {start} + {step} * i)"
    params = {"n": ints(1, 7, 0)}
    return Draft("stairs", about, params, "int list", body, lambda n: [start + step * i for i in range(n)])


def _multiples(k: int) -> Draft:
    about = f"The first n multiples of {k}, from {k} on."
    body = f"List.init n (fun i -> {k} * (i + 1))"
    params = {"n": ints(1, 7, 0)}
    return Draft("multiples", about, params, "int list", body, lambda n: [k * (i + 1) for i in range(n)])

"""Arrays: mapping, folding, positions."""

from collections.abc import Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import array_of, ints
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation
from cluster.problems.builtin.values import Array

ARRAY = array_of(ints(-9, 12))


def arrays() -> Iterator[Draft]:
    """Arrays: mapping, folding, positions."""
    for change in operations.MAPS:
        yield _array_map(change)
    for test in operations.TESTS:
        yield _array_count(test)
        yield _array_any(test)
    for k in range(2, 9):
        yield _array_init(k)
    for k in range(5):
        yield _array_get(k)
    for change in operations.MAPS:
        yield _array_sum(change)


def _array_map(change: Operation) -> Draft:
    about = f"An array of the numbers of an array, each {change.words}."
    body = f"Array.map (fun x -> {change.code('x')}) a"
    return Draft("array_map", about, {"a": ARRAY}, "int array", body, lambda a: Array(map(change.apply, a)))


def _array_count(test: Operation) -> Draft:
    about = f"How many numbers of an array are {test.words}."
    body = f"Array.fold_left (fun acc x -> if {test.code('x')} then acc + 1 else acc) 0 a"
    return Draft("array_count", about, {"a": ARRAY}, "int", body, lambda a: sum(map(test.apply, a)))


def _array_any(test: Operation) -> Draft:
    about = f"Whether some number of an array is {test.words}."
    params = {"a": array_of(ints(-9, 12), longest=3)}
    return Draft(
        "array_any",
        about,
        params,
        "bool",
        f"Array.exists (fun x -> {test.code('x')}) a",
        lambda a: any(map(test.apply, a)),
    )


def _array_init(k: int) -> Draft:
    about = f"An array of the squares of 0 to n - 1, each times {k}."
    params = {"n": ints(1, 6, 0)}
    return Draft(
        "square_table",
        about,
        params,
        "int array",
        f"Array.init n (fun i -> {k} * i * i)",
        lambda n: Array(k * i * i for i in range(n)),
    )


def _array_get(k: int) -> Draft:
    about = f"The number at position {k} of an array, -1 where it is too short."
    body = f"if Array.length a > {k} then a.({k}) else -1"
    return Draft("array_get", about, {"a": ARRAY}, "int", body, lambda a: a[k] if len(a) > k else -1)


def _array_sum(change: Operation) -> Draft:
    about = f"The sum of the numbers of an array, each {change.words}."
    body = f"Array.fold_left (fun acc x -> acc + ({change.code('x')})) 0 a"
    return Draft("array_sum", about, {"a": ARRAY}, "int", body, lambda a: sum(map(change.apply, a)))

"""Recursion over a counter."""

from collections.abc import Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import ints
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation, combinations


def counting() -> Iterator[Draft]:
    """Recursion over a counter."""
    terms = [
        operations.times(2),
        operations.times(3),
        operations.times(5),
        operations.plus(1),
        operations.plus(2),
        operations.plus(4),
        operations.SQUARED,
        operations.at_most(4),
        operations.at_least(3),
    ]
    for term in terms:
        yield _sum_to(term)
        yield _list_down(term)
    for test in operations.TESTS:
        if len({test.apply(n) for n in range(1, 10)}) == 2:
            yield _count_to(test)
            yield _sum_of(test)
    for k in (2, 3, 4, 5, 6, 7):
        yield _power(k)
        yield _halvings(k)
    for first, second in combinations("counting-sequence", 12, range(1, 6), range(1, 6)):
        yield _sequence(first, second)
    for k, start in combinations("counting-steps", 12, range(2, 8), range(5)):
        yield _grow(k, start)


def _sum_to(term: Operation) -> Draft:
    about = f"The sum of the numbers 1 to n, each {term.words}."
    body = f"if n <= 0 then 0 else ({term.code('n')}) + sum_to (n - 1)"
    params = {"n": ints(1, 12, 0)}
    return Draft("sum_to", about, params, "int", body, lambda n: sum(term.apply(i) for i in range(1, n + 1)), rec=True)


def _list_down(term: Operation) -> Draft:
    about = f"The numbers n down to 1, each {term.words}."
    body = f"if n <= 0 then [] else ({term.code('n')}) :: down (n - 1)"
    params = {"n": ints(1, 6, 0)}
    return Draft("down", about, params, "int list", body, lambda n: [term.apply(i) for i in range(n, 0, -1)], rec=True)


def _count_to(test: Operation) -> Draft:
    about = f"How many of the numbers 1 to n are {test.words}."
    body = f"if n <= 0 then 0 else (if {test.code('n')} then 1 else 0) + count_to (n - 1)"
    params = {"n": ints(1, 20, 0)}
    return Draft("count_to", about, params, "int", body, lambda n: sum(map(test.apply, range(1, n + 1))), rec=True)


def _sum_of(test: Operation) -> Draft:
    about = f"The sum of those of the numbers 1 to n that are {test.words}."
    body = f"if n <= 0 then 0 else (if {test.code('n')} then n else 0) + sum_of (n - 1)"
    params = {"n": ints(1, 20, 0)}
    return Draft("sum_of", about, params, "int", body, lambda n: sum(filter(test.apply, range(1, n + 1))), rec=True)


def _power(k: int) -> Draft:
    about = f"{k} to the power of n."
    body = f"if n = 0 then 1 else {k} * power (n - 1)"
    return Draft("power", about, {"n": ints(0, 9)}, "int", body, lambda n: k**n, rec=True)


def _halvings(k: int) -> Draft:
    about = f"How often n can be divided by {k}, with the remainder dropped, until it is 0."
    body = f"if n = 0 then 0 else 1 + steps (n / {k})"
    params = {"n": ints(1, 900, 0)}
    return Draft("steps", about, params, "int", body, lambda n: _divisions(n, k), rec=True)


def _divisions(n: int, k: int) -> int:
    count = 0
    while n:
        n, count = n // k, count + 1
    return count


def _sequence(first: int, second: int) -> Draft:
    about = f"The n-th number of the sequence that begins with {first} and {second}, each later one the sum of the two before it."
    body = f"if n = 0 then {first} else if n = 1 then {second} else term (n - 1) + term (n - 2)"
    return Draft("term", about, {"n": ints(0, 12)}, "int", body, lambda n: _term(first, second, n), rec=True)


def _term(first: int, second: int, n: int) -> int:
    for _ in range(n):
        first, second = second, first + second
    return first


def _grow(k: int, start: int) -> Draft:
    about = f"Begin with {start}; n times multiply by {k} and add 1."
    body = f"if n = 0 then {start} else grow (n - 1) * {k} + 1"
    return Draft("grow", about, {"n": ints(0, 7)}, "int", body, lambda n: _grown(k, start, n), rec=True)


def _grown(k: int, start: int, n: int) -> int:
    for _ in range(n):
        start = start * k + 1
    return start

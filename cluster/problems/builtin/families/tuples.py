"""Pairs and triples."""

from collections.abc import Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import INT, ints, tuple_of
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation, combinations

PAIR = tuple_of(ints(-9, 12), ints(-9, 12))


def tuples() -> Iterator[Draft]:
    """Pairs and triples."""
    for left, right in combinations("tuples-both", 50, operations.MAPS, operations.MAPS):
        yield _each(left, right)
    for left, right in combinations("tuples-of_one", 40, operations.MAPS, operations.MAPS):
        yield _fork(left, right)
    for test in operations.TESTS:
        yield _which(test)
    for k in range(2, 9):
        yield _quotient(k)
        yield _pair_sum(k)


def _each(left: Operation, right: Operation) -> Draft:
    about = f"A pair with its first number {left.words} and its second {right.words}."
    body = f"let (a, b) = p in\n({left.code('a')}, {right.code('b')})"
    return Draft("each", about, {"p": PAIR}, PAIR.type, body, lambda p: (left.apply(p[0]), right.apply(p[1])))


def _fork(left: Operation, right: Operation) -> Draft:
    about = f"Two numbers: n {left.words}, and n {right.words}."
    body = f"({left.code('n')}, {right.code('n')})"
    return Draft("fork", about, {"n": INT}, "int * int", body, lambda n: (left.apply(n), right.apply(n)))


def _which(test: Operation) -> Draft:
    about = f"A pair in its order if its first number is {test.words}, else swapped."
    body = f"let (a, b) = p in\nif {test.code('a')} then (a, b) else (b, a)"
    return Draft("swap_unless", about, {"p": PAIR}, PAIR.type, body, lambda p: p if test.apply(p[0]) else (p[1], p[0]))


def _quotient(k: int) -> Draft:
    about = f"The quotient and the remainder of n divided by {k}."
    return Draft("divide_by", about, {"n": ints(0, 60)}, "int * int", f"(n / {k}, n mod {k})", lambda n: divmod(n, k))


def _pair_sum(k: int) -> Draft:
    about = f"{k} times the first number of a pair plus the second."
    body = f"let (a, b) = p in\n{k} * a + b"
    return Draft("mix", about, {"p": PAIR}, "int", body, lambda p: k * p[0] + p[1])

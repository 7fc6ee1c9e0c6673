"""Boolean conditions on numbers."""

from collections.abc import Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import INT, ints
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation, balanced_ints, combinations


def truth() -> Iterator[Draft]:
    """Boolean conditions on numbers."""
    for first, second in combinations("truth-two", 40, operations.TESTS[:4], operations.TESTS[4:]):
        if sum(first.apply(n) and second.apply(n) for n in range(-20, 21)) > 3:
            yield _both(first, second)
        if sum(not (first.apply(n) or second.apply(n)) for n in range(-20, 21)) > 3:
            yield _any(first, second)
    for test in operations.TESTS:
        yield _not(test)
    for first, second in combinations("truth-pair", 40, operations.TESTS, operations.TESTS):
        yield _pair(first, second)
    for low, high in combinations("truth-inside", 20, range(-8, 4), range(5, 15)):
        yield _inside(low, high)


def _both(first: Operation, second: Operation) -> Draft:
    about = f"Whether a number is {first.words} and {second.words}."
    body = f"{first.code('n')} && {second.code('n')}"
    params = {"n": balanced_ints(lambda n: bool(first.apply(n) and second.apply(n)))}
    return Draft("is_both", about, params, "bool", body, lambda n: first.apply(n) and second.apply(n))


def _any(first: Operation, second: Operation) -> Draft:
    about = f"Whether a number is {first.words} or {second.words}."
    body = f"{first.code('n')} || {second.code('n')}"
    params = {"n": balanced_ints(lambda n: bool(first.apply(n) or second.apply(n)))}
    return Draft("is_any", about, params, "bool", body, lambda n: first.apply(n) or second.apply(n))


def _not(test: Operation) -> Draft:
    about = f"Whether a number is not {test.words}."
    return Draft(
        "is_not",
        about,
        {"n": balanced_ints(test.apply)},
        "bool",
        f"not ({test.code('n')})",
        lambda n: not test.apply(n),
    )


def _pair(first: Operation, second: Operation) -> Draft:
    about = f"Whether a is {first.words} and b is {second.words}."
    body = f"{first.code('a')} && {second.code('b')}"
    params = {"a": INT, "b": INT}
    return Draft("pair_holds", about, params, "bool", body, lambda a, b: first.apply(a) and second.apply(b))


def _inside(low: int, high: int) -> Draft:
    about = f"Whether a number is from {low} to {high}."
    body = f"n >= {low} && n <= {high}"
    return Draft("inside", about, {"n": ints(low - 9, high + 9, low, high)}, "bool", body, lambda n: low <= n <= high)

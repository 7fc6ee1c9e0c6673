"""Formulas of one, two or three numbers."""

from collections.abc import Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import INT, NAT, ints
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation, combinations


def arithmetic() -> Iterator[Draft]:
    """Formulas of one, two or three numbers."""
    for k, c in combinations("arithmetic-scale_add", 26, range(2, 10), range(1, 10)):
        yield _scale_add(k, c)
    for k, c in combinations("arithmetic-add_scale", 20, range(2, 10), range(1, 10)):
        yield _add_scale(k, c)
    for a, b in combinations("arithmetic-weighted", 22, range(2, 9), range(2, 9)):
        yield _weighted(a, b)
    for first, second in combinations("arithmetic-two_steps", 36, operations.MAPS[:14], operations.MAPS[14:]):
        yield _two_steps(first, second)
    for k in (2, 3, 4, 5, 6, 7, 8, 9, 10, 12):
        yield _round_down(k)
        yield _groups(k)
        yield _remainder(k)
    for unit, count in (("minutes", 60), ("hours", 24), ("days", 7), ("dozens", 12), ("scores", 20), ("grosses", 144)):
        yield _convert(unit, count)
    for k in (10, 12, 15, 20, 25, 30):
        yield _missing(k)


def _scale_add(k: int, c: int) -> Draft:
    about = f"Multiply a number by {k}, then add {c}."
    return Draft("scale_add", about, {"n": INT}, "int", f"n * {k} + {c}", lambda n: n * k + c)


def _add_scale(k: int, c: int) -> Draft:
    about = f"Add {c} to a number, then multiply by {k}."
    return Draft("add_scale", about, {"n": INT}, "int", f"(n + {c}) * {k}", lambda n: (n + c) * k)


def _weighted(a: int, b: int) -> Draft:
    about = f"{a} times x plus {b} times y."
    return Draft("weighted", about, {"x": INT, "y": INT}, "int", f"{a} * x + {b} * y", lambda x, y: a * x + b * y)


def _two_steps(first: Operation, second: Operation) -> Draft:
    about = f"A number {first.words}, then {second.words}."
    body = f"let m = {first.code('n')} in\n{second.code('m')}"
    return Draft("two_steps", about, {"n": INT}, "int", body, lambda n: second.apply(first.apply(n)))


def _round_down(k: int) -> Draft:
    about = f"The largest multiple of {k} that is not above a number."
    return Draft("round_down", about, {"n": ints(0, 60)}, "int", f"n / {k} * {k}", lambda n: n // k * k)


def _groups(k: int) -> Draft:
    about = f"How many boxes of {k} are needed for n things."
    return Draft("boxes", about, {"n": ints(0, 60)}, "int", f"(n + {k - 1}) / {k}", lambda n: -(-n // k))


def _remainder(k: int) -> Draft:
    about = f"What is left of n things after filling boxes of {k}."
    return Draft("left_over", about, {"n": ints(0, 60)}, "int", f"n mod {k}", lambda n: n % k)


def _convert(unit: str, count: int) -> Draft:
    about = f"Whole {unit} and single pieces, {count} pieces to each of the {unit}: the total of pieces."
    params = {unit: NAT, "pieces": NAT}
    return Draft(f"from_{unit}", about, params, "int", f"{unit} * {count} + pieces", lambda a, b: a * count + b)


def _missing(k: int) -> Draft:
    about = f"How much is missing from a + b to {k}, 0 where nothing is."
    return Draft(
        f"missing_to_{k}",
        about,
        {"a": ints(0, k), "b": ints(0, k)},
        "int",
        f"max 0 ({k} - a - b)",
        lambda a, b: max(0, k - a - b),
    )

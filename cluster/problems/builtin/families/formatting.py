"""Numbers written as text."""

from collections.abc import Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import (
    INT,
    INTS,
    NAT,
    ints,
)
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation, balanced_ints, combinations


def formatting() -> Iterator[Draft]:
    """Numbers written as text."""
    for unit in ("km", "kg", "cm", "ml", "%", " steps", " points", " days"):
        yield _with_unit(unit)
    for label, mark in combinations(
        "formatting-label", 24, ("total", "sum", "size", "age", "level", "page"), (": ", " = ", "-", " ")
    ):
        yield _labelled(label, mark)
    for test, yes, no in combinations(
        "formatting-choice", 40, operations.TESTS, ("yes", "big", "good", "left"), ("no", "small", "bad", "right")
    ):
        yield _choice(test, yes, no)
    for mark in ("-", "/", ":", "x", ", ", " to ", " of "):
        yield _two_numbers(mark)
    for mark in ("-", "/", ":", "+", ", ", ""):
        yield _number_line(mark)
    for width in (2, 3, 4, 5, 6):
        yield _padded(width)
    for change in operations.MAPS[:16]:
        yield _shown(change)


def _with_unit(unit: str) -> Draft:
    return Draft(
        "with_unit",
        f'A number followed by "{unit}".',
        {"n": INT},
        "string",
        f'string_of_int n ^ "{unit}"',
        lambda n: f"{n}{unit}",
    )


def _labelled(label: str, mark: str) -> Draft:
    about = f'A number after "{label}{mark}".'
    return Draft(
        "labelled", about, {"n": INT}, "string", f'"{label}{mark}" ^ string_of_int n', lambda n: f"{label}{mark}{n}"
    )


def _choice(test: Operation, yes: str, no: str) -> Draft:
    about = f'"{yes}" for a number that is {test.words}, else "{no}".'
    body = f'if {test.code("n")} then "{yes}" else "{no}"'
    return Draft(
        "verdict", about, {"n": balanced_ints(test.apply)}, "string", body, lambda n: yes if test.apply(n) else no
    )


def _two_numbers(mark: str) -> Draft:
    about = f'Two numbers with "{mark}" between them.'
    params = {"a": NAT, "b": NAT}
    return Draft(
        "show_two",
        about,
        params,
        "string",
        f'string_of_int a ^ "{mark}" ^ string_of_int b',
        lambda a, b: f"{a}{mark}{b}",
    )


def _number_line(mark: str) -> Draft:
    about = f'The numbers of a list as one string, with "{mark}" between them.'
    body = f'String.concat "{mark}" (List.map string_of_int xs)'
    return Draft("show_all", about, {"xs": INTS}, "string", body, lambda xs: mark.join(map(str, xs)))


def _padded(width: int) -> Draft:
    about = f"A number with zeros in front, so that it has {width} digits or more."
    return Draft(
        "padded", about, {"n": ints(0, 3000)}, "string", f'Printf.sprintf "%0{width}d" n', lambda n: str(n).zfill(width)
    )


def _shown(change: Operation) -> Draft:
    about = f"A number {change.words}, as a string."
    return Draft(
        "shown", about, {"n": INT}, "string", f"string_of_int ({change.code('n')})", lambda n: str(change.apply(n))
    )

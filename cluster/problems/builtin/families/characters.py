"""Single characters."""

from collections.abc import Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import (
    ANY_CHAR,
    LETTER,
    Domain,
    biased,
    chars,
    ints,
)
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation, combinations
from cluster.problems.builtin.values import Char


def characters() -> Iterator[Draft]:
    """Single characters."""
    for test in operations.CHAR_TESTS[:4]:
        yield Draft(
            "is_such", f"Whether a character is {test.words}.", {"c": _half(test)}, "bool", test.code("c"), test.apply
        )
    for first, second in combinations("characters-either", 14, operations.CHAR_TESTS[:4], operations.CHAR_TESTS[4:]):
        if not any(first.apply(char) for char in "az. " if second.apply(char)):
            yield _either(first, second)
    for k in range(1, 10):
        yield _code_plus(k)
        yield _shift(k)
        yield _digit_times(k)
    for test, mark in combinations("characters-mask", 24, operations.CHAR_TESTS[:6], "*_-#+"):
        yield _mask(test, mark)
    for k in range(2, 8):
        yield _line_of(k)
    for test, yes, no in combinations(
        "characters-name", 20, operations.CHAR_TESTS[:4], ("yes", "in", "ok"), ("no", "out", "bad")
    ):
        yield _named(test, yes, no)


def _half(test: Operation) -> Domain:
    return biased(ANY_CHAR, test.apply, 0.5)


def _either(first: Operation, second: Operation) -> Draft:
    about = f"Whether a character is {first.words} or {second.words}."
    body = f"({first.code('c')}) || {second.code('c')}"
    return Draft("is_one_of", about, {"c": ANY_CHAR}, "bool", body, lambda c: first.apply(c) or second.apply(c))


def _code_plus(k: int) -> Draft:
    about = f"The code of a character, increased by {k}."
    return Draft("code_plus", about, {"c": ANY_CHAR}, "int", f"Char.code c + {k}", lambda c: ord(c) + k)


def _shift(k: int) -> Draft:
    about = f"The lower-case letter {k} places later, going on with 'a' after 'z'."
    body = f"Char.chr ((Char.code c - 97 + {k}) mod 26 + 97)"
    return Draft("shift", about, {"c": LETTER}, "char", body, lambda c: Char(chr((ord(c) - 97 + k) % 26 + 97)))


def _digit_times(k: int) -> Draft:
    about = f"{k} times the value of a digit."
    body = f"{k} * (Char.code c - Char.code '0')"
    return Draft("digit_times", about, {"c": chars("0123456789")}, "int", body, lambda c: k * int(c))


def _mask(test: Operation, mark: str) -> Draft:
    about = f"'{mark}' for a character that is {test.words}, else the character."
    body = f"if {test.code('c')} then '{mark}' else c"
    return Draft("mask", about, {"c": _half(test)}, "char", body, lambda c: Char(mark) if test.apply(c) else c)


def _line_of(k: int) -> Draft:
    about = f"A string of {k} times n equal characters."
    params = {"n": ints(1, 3, 0), "c": chars("ab*-=")}
    return Draft("line_of", about, params, "string", f"String.make ({k} * n) c", lambda n, c: str(c) * k * n)


def _named(test: Operation, yes: str, no: str) -> Draft:
    about = f'"{yes}" for a character that is {test.words}, else "{no}".'
    body = f'if {test.code("c")} then "{yes}" else "{no}"'
    return Draft("name_char", about, {"c": _half(test)}, "string", body, lambda c: yes if test.apply(c) else no)

"""Small operations on one value, in English, OCaml and Python. Templates compose easy problems from them."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from cluster.problems.builtin.domains import Domain, biased, ints
from cluster.problems.builtin.values import Char


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on one value: a change or a test."""

    words: str  # English words that follow "is" or a noun
    code: Callable[[str], str]  # variable name -> OCaml expression
    apply: Callable[[Any], Any]  # the same in Python


def combinations(label: str, count: int, *choices: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return ``count`` different tuples (or all, if fewer) with one element of each sequence; ``label`` is the seed."""
    tuples = list(product(*choices))
    return random.Random(label).sample(tuples, min(count, len(tuples)))


def times(k: int) -> Operation:
    """Multiplication by k."""
    return Operation(f"multiplied by {k}", lambda x: f"{x} * {k}", lambda x: x * k)


def plus(k: int) -> Operation:
    """Addition of k."""
    return Operation(f"increased by {k}", lambda x: f"{x} + {k}", lambda x: x + k)


def minus(k: int) -> Operation:
    """Subtraction of k."""
    return Operation(f"decreased by {k}", lambda x: f"{x} - {k}", lambda x: x - k)


def taken_from(k: int) -> Operation:
    """Subtraction from k."""
    return Operation(f"subtracted from {k}", lambda x: f"{k} - {x}", lambda x: k - x)


def at_most(k: int) -> Operation:
    """The smaller of the value and k."""
    return Operation(f"capped at {k}", lambda x: f"min {x} {k}", lambda x: min(x, k))


def at_least(k: int) -> Operation:
    """The larger of the value and k."""
    return Operation(f"raised to at least {k}", lambda x: f"max {x} {k}", lambda x: max(x, k))


SQUARED = Operation("squared", lambda x: f"{x} * {x}", lambda x: x * x)
NEGATED = Operation("negated", lambda x: f"-{x}", lambda x: -x)
ABSOLUTE = Operation("made absolute", lambda x: f"abs {x}", abs)


def above(k: int) -> Operation:
    """Greater than k."""
    return Operation(f"above {k}", lambda x: f"{x} > {k}", lambda x: x > k)


def below(k: int) -> Operation:
    """Less than k."""
    return Operation(f"below {k}", lambda x: f"{x} < {k}", lambda x: x < k)


def divisible(k: int) -> Operation:
    """A multiple of k."""
    return Operation(f"divisible by {k}", lambda x: f"{x} mod {k} = 0", lambda x: x % k == 0)


def between(low: int, high: int) -> Operation:
    """Condition that an integer is between low and high, both included."""
    return Operation(f"from {low} to {high}", lambda x: f"{x} >= {low} && {x} <= {high}", lambda x: low <= x <= high)


EVEN = Operation("even", lambda x: f"{x} mod 2 = 0", lambda x: x % 2 == 0)
ODD = Operation("odd", lambda x: f"{x} mod 2 <> 0", lambda x: x % 2 != 0)
POSITIVE = Operation("positive", lambda x: f"{x} > 0", lambda x: x > 0)
NEGATIVE = Operation("negative", lambda x: f"{x} < 0", lambda x: x < 0)

MAPS = [
    *map(times, (2, 3, 4, 5, 10)),
    *map(plus, (1, 2, 3, 5, 7)),
    *map(minus, (1, 2, 4, 6)),
    *map(taken_from, (5, 10)),
    *map(at_most, (4, 8)),
    *map(at_least, (0, 3)),
    SQUARED,
    NEGATED,
    ABSOLUTE,
]
TESTS = [EVEN, ODD, POSITIVE, NEGATIVE, *map(above, (2, 3, 5, 7)), *map(below, (1, 4, 6)), *map(divisible, (3, 4, 5))]


def has_effect(test: Operation, change: Operation) -> bool:
    """Return True if the change alters at least one number for which the test holds."""
    return any(test.apply(n) and change.apply(n) != n for n in range(-12, 13))


def balanced_ints(holds: Callable[[int], bool]) -> Domain:
    """Return integers of which about half meet a condition. Edge cases: the two neighbours where it first changes."""
    turn = next(n for n in range(-20, 20) if (holds(n) != holds(n + 1) and n >= 0) or n == 19)
    return biased(ints(-20, 20, turn, turn + 1), holds, 0.5)


def longer(k: int) -> Operation:
    """A string of more than k characters."""
    return Operation(f"longer than {k}", lambda s: f"String.length {s} > {k}", lambda s: len(s) > k)


def shorter(k: int) -> Operation:
    """A string of fewer than k characters."""
    return Operation(f"shorter than {k}", lambda s: f"String.length {s} < {k}", lambda s: len(s) < k)


def containing(letter: str) -> Operation:
    """A string with a given character."""
    return Operation(f"containing '{letter}'", lambda s: f"String.contains {s} '{letter}'", lambda s: letter in s)


def starting(letter: str) -> Operation:
    """A string that begins with a given character."""
    return Operation(
        f"starting with '{letter}'",
        lambda s: f"{s} <> \"\" && {s}.[0] = '{letter}'",
        lambda s: s.startswith(letter),
    )


def ended_by(tail: str) -> Operation:
    """A string with a tail appended."""
    return Operation(f'followed by "{tail}"', lambda s: f'{s} ^ "{tail}"', lambda s: s + tail)


def preceded_by(head: str) -> Operation:
    """A string with a head put in front."""
    return Operation(f'preceded by "{head}"', lambda s: f'"{head}" ^ {s}', lambda s: head + s)


UPPER = Operation("in upper case", lambda s: f"String.uppercase_ascii {s}", str.upper)
CAPITAL = Operation(
    "with a capital first letter", lambda s: f"String.capitalize_ascii {s}", lambda s: s[:1].upper() + s[1:]
)
TWICE = Operation("written twice", lambda s: f"{s} ^ {s}", lambda s: s + s)

STRING_MAPS = [UPPER, CAPITAL, TWICE, *map(ended_by, ("!", "s", "ing", "?")), *map(preceded_by, ("re", "un", "-", "#"))]
STRING_TESTS = [*map(longer, (3, 4, 5)), *map(shorter, (4, 5)), *map(containing, "aeor"), *map(starting, "cmlo")]


def is_char(char: str) -> Operation:
    """One given character."""
    return Operation(f"equal to '{char}'", lambda c: f"{c} = '{char}'", lambda c: c == char)


def in_range(words: str, low: str, high: str) -> Operation:
    """A character from low to high."""
    return Operation(words, lambda c: f"{c} >= '{low}' && {c} <= '{high}'", lambda c: low <= c <= high)


VOWEL = Operation("a vowel", lambda c: f'String.contains "aeiou" {c}', lambda c: c in "aeiou")
DIGIT = in_range("a digit", "0", "9")
LOWER_LETTER = in_range("a lower-case letter", "a", "z")
UPPER_LETTER = in_range("an upper-case letter", "A", "Z")
CHAR_TESTS = [VOWEL, DIGIT, LOWER_LETTER, UPPER_LETTER, is_char("a"), is_char(" "), is_char("."), is_char("z")]

CHAR_UPPER = Operation("in upper case", lambda c: f"Char.uppercase_ascii {c}", lambda c: Char(c.upper()))
CHAR_LOWER = Operation("in lower case", lambda c: f"Char.lowercase_ascii {c}", lambda c: Char(c.lower()))

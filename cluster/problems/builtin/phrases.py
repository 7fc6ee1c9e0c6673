"""Small operations said in words, in OCaml and in Python, from which many easy problems are composed."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from cluster.problems.builtin.domains import Domain, ints, leaning
from cluster.problems.builtin.values import Char


@dataclass(frozen=True, slots=True)
class Phrase:
    """An operation on one value."""

    words: str
    code: Callable[[str], str]  # OCaml for the operation on the named variable
    apply: Callable[[Any], Any]


def combinations(label: str, count: int, *choices: Sequence[Any]) -> list[tuple[Any, ...]]:
    """``count`` different tuples with one element of each sequence, chosen by the label; all where there are fewer."""
    every = list(product(*choices))
    return random.Random(label).sample(every, min(count, len(every)))


def times(k: int) -> Phrase:
    """Multiplication by k."""
    return Phrase(f"multiplied by {k}", lambda x: f"{x} * {k}", lambda x: x * k)


def plus(k: int) -> Phrase:
    """Addition of k."""
    return Phrase(f"increased by {k}", lambda x: f"{x} + {k}", lambda x: x + k)


def minus(k: int) -> Phrase:
    """Subtraction of k."""
    return Phrase(f"decreased by {k}", lambda x: f"{x} - {k}", lambda x: x - k)


def taken_from(k: int) -> Phrase:
    """Subtraction from k."""
    return Phrase(f"subtracted from {k}", lambda x: f"{k} - {x}", lambda x: k - x)


def at_most(k: int) -> Phrase:
    """The smaller of the value and k."""
    return Phrase(f"capped at {k}", lambda x: f"min {x} {k}", lambda x: min(x, k))


def at_least(k: int) -> Phrase:
    """The larger of the value and k."""
    return Phrase(f"raised to at least {k}", lambda x: f"max {x} {k}", lambda x: max(x, k))


SQUARED = Phrase("squared", lambda x: f"{x} * {x}", lambda x: x * x)
NEGATED = Phrase("negated", lambda x: f"-{x}", lambda x: -x)
ABSOLUTE = Phrase("made absolute", lambda x: f"abs {x}", abs)


def above(k: int) -> Phrase:
    """Greater than k."""
    return Phrase(f"above {k}", lambda x: f"{x} > {k}", lambda x: x > k)


def below(k: int) -> Phrase:
    """Less than k."""
    return Phrase(f"below {k}", lambda x: f"{x} < {k}", lambda x: x < k)


def divisible(k: int) -> Phrase:
    """A multiple of k."""
    return Phrase(f"divisible by {k}", lambda x: f"{x} mod {k} = 0", lambda x: x % k == 0)


def other_than(k: int) -> Phrase:
    """Not k."""
    return Phrase(f"different from {k}", lambda x: f"{x} <> {k}", lambda x: x != k)


def between(low: int, high: int) -> Phrase:
    """From low to high, both included."""
    return Phrase(f"from {low} to {high}", lambda x: f"{x} >= {low} && {x} <= {high}", lambda x: low <= x <= high)


EVEN = Phrase("even", lambda x: f"{x} mod 2 = 0", lambda x: x % 2 == 0)
ODD = Phrase("odd", lambda x: f"{x} mod 2 <> 0", lambda x: x % 2 != 0)
POSITIVE = Phrase("positive", lambda x: f"{x} > 0", lambda x: x > 0)
NEGATIVE = Phrase("negative", lambda x: f"{x} < 0", lambda x: x < 0)

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


def matters(test: Phrase, change: Phrase) -> bool:
    """Whether a change makes a difference to some number that the test picks."""
    return any(test.apply(n) and change.apply(n) != n for n in range(-12, 13))


def around(holds: Callable[[int], bool]) -> Domain:
    """Integers of which about half fulfil a condition; the edge cases are the two neighbours where it first turns."""
    turn = next(n for n in range(-20, 20) if (holds(n) != holds(n + 1) and n >= 0) or n == 19)
    return leaning(ints(-20, 20, turn, turn + 1), holds, 0.5)


def longer(k: int) -> Phrase:
    """A string of more than k characters."""
    return Phrase(f"longer than {k}", lambda s: f"String.length {s} > {k}", lambda s: len(s) > k)


def shorter(k: int) -> Phrase:
    """A string of fewer than k characters."""
    return Phrase(f"shorter than {k}", lambda s: f"String.length {s} < {k}", lambda s: len(s) < k)


def containing(letter: str) -> Phrase:
    """A string with a given character."""
    return Phrase(f"containing '{letter}'", lambda s: f"String.contains {s} '{letter}'", lambda s: letter in s)


def starting(letter: str) -> Phrase:
    """A string that begins with a given character."""
    return Phrase(
        f"starting with '{letter}'",
        lambda s: f"{s} <> \"\" && {s}.[0] = '{letter}'",
        lambda s: s.startswith(letter),
    )


def ended_by(tail: str) -> Phrase:
    """A string with a tail appended."""
    return Phrase(f'followed by "{tail}"', lambda s: f'{s} ^ "{tail}"', lambda s: s + tail)


def preceded_by(head: str) -> Phrase:
    """A string with something in front."""
    return Phrase(f'preceded by "{head}"', lambda s: f'"{head}" ^ {s}', lambda s: head + s)


UPPER = Phrase("in upper case", lambda s: f"String.uppercase_ascii {s}", str.upper)
CAPITAL = Phrase(
    "with a capital first letter", lambda s: f"String.capitalize_ascii {s}", lambda s: s[:1].upper() + s[1:]
)
TWICE = Phrase("written twice", lambda s: f"{s} ^ {s}", lambda s: s + s)

STRING_MAPS = [UPPER, CAPITAL, TWICE, *map(ended_by, ("!", "s", "ing", "?")), *map(preceded_by, ("re", "un", "-", "#"))]
STRING_TESTS = [*map(longer, (3, 4, 5)), *map(shorter, (4, 5)), *map(containing, "aeor"), *map(starting, "cmlo")]


def is_char(char: str) -> Phrase:
    """One given character."""
    return Phrase(f"equal to '{char}'", lambda c: f"{c} = '{char}'", lambda c: c == char)


def in_range(words: str, low: str, high: str) -> Phrase:
    """A character from low to high."""
    return Phrase(words, lambda c: f"{c} >= '{low}' && {c} <= '{high}'", lambda c: low <= c <= high)


VOWEL = Phrase("a vowel", lambda c: f'String.contains "aeiou" {c}', lambda c: c in "aeiou")
DIGIT = in_range("a digit", "0", "9")
LOWER_LETTER = in_range("a lower-case letter", "a", "z")
UPPER_LETTER = in_range("an upper-case letter", "A", "Z")
CHAR_TESTS = [VOWEL, DIGIT, LOWER_LETTER, UPPER_LETTER, is_char("a"), is_char(" "), is_char("."), is_char("z")]

CHAR_UPPER = Phrase("in upper case", lambda c: f"Char.uppercase_ascii {c}", lambda c: Char(c.upper()))
CHAR_LOWER = Phrase("in lower case", lambda c: f"Char.lowercase_ascii {c}", lambda c: Char(c.lower()))

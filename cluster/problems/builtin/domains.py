"""Where the inputs of a problem come from: an OCaml type, a way to draw values, and edge cases worth a test."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from cluster.problems.builtin.values import NONE, Array, Char, some

_WORDS = [
    "river",
    "stone",
    "cloud",
    "maple",
    "amber",
    "tiger",
    "lemon",
    "cedar",
    "ocean",
    "violet",
    "candle",
    "marble",
    "pepper",
    "rocket",
    "garden",
    "silver",
    "bridge",
    "copper",
    "winter",
    "meadow",
    "falcon",
    "harbor",
    "island",
    "jungle",
    "kettle",
    "ladder",
    "mirror",
    "needle",
    "orchid",
    "pillow",
    "ox",
    "elm",
    "ash",
    "ivy",
    "fox",
    "owl",
    "bee",
    "ant",
    "sun",
    "map",
    "cup",
    "bell",
    "lamp",
    "moon",
    "tree",
    "leaf",
    "rope",
    "salt",
    "wind",
    "level",
    "noon",
    "civic",
    "radar",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """The inputs that one parameter may take."""

    type: str  # the OCaml type
    draw: Callable[[Random], Any]
    edges: tuple[object, ...] = ()  # tried before any drawn value

    def beginning(self, *edges: object) -> "Domain":
        """The same domain with these edge cases instead."""
        return replace(self, edges=edges)


def ints(low: int, high: int, *edges: int) -> Domain:
    """Integers from ``low`` to ``high``, both included."""
    return Domain(type="int", draw=lambda rng: rng.randint(low, high), edges=edges)


def chars(pool: str) -> Domain:
    """Characters of a pool."""
    return Domain(type="char", draw=lambda rng: Char(rng.choice(pool)))


def text(pool: str, longest: int, *edges: str) -> Domain:
    """Strings of up to ``longest`` characters of a pool."""
    return Domain(
        type="string",
        draw=lambda rng: "".join(rng.choice(pool) for _ in range(rng.randint(1, longest))),
        edges=edges or ("",),
    )


def one_of(type: str, *values: object) -> Domain:  # noqa: A002 - it is an OCaml type
    """One of a few values."""
    return Domain(type=type, draw=lambda rng: rng.choice(values))


def list_of(item: Domain, longest: int = 6, shortest: int = 0) -> Domain:
    """Lists of ``shortest`` to ``longest`` items."""
    return Domain(
        type=_applied(item.type, "list"),
        draw=lambda rng: [item.draw(rng) for _ in range(rng.randint(max(2, shortest), longest))],
        edges=([],) if shortest == 0 else (),
    )


def array_of(item: Domain, longest: int = 6, shortest: int = 0) -> Domain:
    """Arrays of ``shortest`` to ``longest`` items."""
    return Domain(
        type=_applied(item.type, "array"),
        draw=lambda rng: Array(item.draw(rng) for _ in range(rng.randint(max(2, shortest), longest))),
        edges=(Array(),) if shortest == 0 else (),
    )


def option_of(item: Domain) -> Domain:
    """``None`` in one draw of four, else ``Some`` item."""
    return Domain(
        type=_applied(item.type, "option"),
        draw=lambda rng: NONE if rng.random() < 0.25 else some(item.draw(rng)),
        edges=(NONE,),
    )


def tuple_of(*items: Domain) -> Domain:
    """Tuples with one component of each domain."""
    return Domain(
        type=" * ".join(item.type for item in items),
        draw=lambda rng: tuple(item.draw(rng) for item in items),
    )


def leaning(domain: Domain, holds: Callable[[Any], bool], share: float) -> Domain:
    """The same domain, drawn so that ``holds`` is true of about this share of the values."""

    def draw(rng: Random) -> object:
        wanted = rng.random() < share
        tries = (domain.draw(rng) for _ in range(200))
        return next((value for value in tries if bool(holds(value)) == wanted), domain.draw(rng))

    return replace(domain, draw=draw)


def sorted_list(item: Domain, longest: int = 6) -> Domain:
    """Ascending lists."""
    unsorted = list_of(item, longest)
    return replace(unsorted, draw=lambda rng: _ascending(unsorted.draw(rng)))


def sentence(longest: int = 5) -> Domain:
    """Words of the house, separated by single spaces."""
    return Domain(
        type="string",
        draw=lambda rng: " ".join(rng.choice(_WORDS) for _ in range(rng.randint(2, longest))),
        edges=("",),
    )


def grid(low: int, high: int, sides: Sequence[int] = (1, 2, 3), *, square: bool = False) -> Domain:
    """Rectangular ``int list list`` of one row or more."""

    def draw(rng: Random) -> object:
        width = rng.choice(sides)
        height = width if square else rng.choice(sides)
        return [[rng.randint(low, high) for _ in range(width)] for _ in range(height)]

    return Domain(type="int list list", draw=draw)


def _applied(item: str, constructor: str) -> str:
    return f"({item}) {constructor}" if "*" in item else f"{item} {constructor}"


def _ascending(items: object) -> list[object]:
    assert isinstance(items, list)
    return sorted(items)


INT = ints(-20, 20)
NAT = ints(0, 20)
BOOL = one_of("bool", True, False)
WORD = one_of("string", *_WORDS).beginning("")
LETTER = chars("abcdefghijklmnopqrstuvwxyz")
ANY_CHAR = chars("aeioubkxzAEMQZ0379 .!")
INTS = list_of(ints(-9, 12))
NATS = list_of(ints(0, 12))
STRINGS = list_of(WORD, longest=5)
CHARS = list_of(ANY_CHAR)
MIXED = text("aeioubkxzAEMQZ0379 .", 9)

# The items of three kinds of lists, and what a list of each kind is called, with its domain.
ITEMS = {"int": ints(-9, 12), "string": WORD, "char": ANY_CHAR}
KINDS = {"int": ("numbers", INTS), "string": ("words", STRINGS), "char": ("characters", CHARS)}

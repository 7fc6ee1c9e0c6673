"""Domains: an OCaml type, a way to draw values of it, and edge cases to test."""

from collections.abc import Callable
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
    """Values that one parameter may take."""

    type: str  # the OCaml type
    draw: Callable[[Random], Any]
    edges: tuple[object, ...] = ()  # edge cases, used before any drawn value

    def with_edges(self, *edges: object) -> "Domain":
        """Return the domain with these edge cases instead of its own."""
        return replace(self, edges=edges)


def ints(low: int, high: int, *edges: int) -> Domain:
    """Return the integers from ``low`` to ``high``, both included."""
    return Domain(type="int", draw=lambda rng: rng.randint(low, high), edges=edges)


def chars(pool: str) -> Domain:
    """Return the characters of a pool."""
    return Domain(type="char", draw=lambda rng: Char(rng.choice(pool)))


def text(pool: str, longest: int, *edges: str) -> Domain:
    """Return strings of 1 to ``longest`` characters of a pool."""
    return Domain(
        type="string",
        draw=lambda rng: "".join(rng.choice(pool) for _ in range(rng.randint(1, longest))),
        edges=edges or ("",),
    )


def one_of(type: str, *values: object) -> Domain:  # noqa: A002 - an OCaml type
    """Return a domain of a few values."""
    return Domain(type=type, draw=lambda rng: rng.choice(values))


def list_of(item: Domain, longest: int = 6) -> Domain:
    """Return lists of 2 to ``longest`` items, with the empty list as edge case."""
    return Domain(
        type=_applied(item.type, "list"),
        draw=lambda rng: [item.draw(rng) for _ in range(rng.randint(2, longest))],
        edges=([],),
    )


def array_of(item: Domain, longest: int = 6) -> Domain:
    """Return arrays of 2 to ``longest`` items, with the empty array as edge case."""
    return Domain(
        type=_applied(item.type, "array"),
        draw=lambda rng: Array(item.draw(rng) for _ in range(rng.randint(2, longest))),
        edges=(Array(),),
    )


def option_of(item: Domain) -> Domain:
    """Return ``None`` in one of four draws, else ``Some`` item."""
    return Domain(
        type=_applied(item.type, "option"),
        draw=lambda rng: NONE if rng.random() < 0.25 else some(item.draw(rng)),
        edges=(NONE,),
    )


def tuple_of(*items: Domain) -> Domain:
    """Return tuples with one component of each domain."""
    return Domain(
        type=" * ".join(item.type for item in items),
        draw=lambda rng: tuple(item.draw(rng) for item in items),
    )


def biased(domain: Domain, holds: Callable[[Any], bool], share: float) -> Domain:
    """Return the domain with draws changed so that ``holds`` is true for about ``share`` of the values."""

    def draw(rng: Random) -> object:
        wanted = rng.random() < share
        tries = (domain.draw(rng) for _ in range(200))
        return next((value for value in tries if bool(holds(value)) == wanted), domain.draw(rng))

    return replace(domain, draw=draw)


def _applied(item: str, constructor: str) -> str:
    return f"({item}) {constructor}" if "*" in item else f"{item} {constructor}"


INT = ints(-20, 20)
NAT = ints(0, 20)
BOOL = one_of("bool", True, False)
WORD = one_of("string", *_WORDS).with_edges("")
LETTER = chars("abcdefghijklmnopqrstuvwxyz")
ANY_CHAR = chars("aeioubkxzAEMQZ0379 .!")
INTS = list_of(ints(-9, 12))
NATS = list_of(ints(0, 12))
STRINGS = list_of(WORD, longest=5)
CHARS = list_of(ANY_CHAR)
MIXED = text("aeioubkxzAEMQZ0379 .", 9)

# Item types of lists: the domain of an item; the English word for such a list with the domain of the list.
ITEMS = {"int": ints(-9, 12), "string": WORD, "char": ANY_CHAR}
KINDS = {"int": ("numbers", INTS), "string": ("words", STRINGS), "char": ("characters", CHARS)}

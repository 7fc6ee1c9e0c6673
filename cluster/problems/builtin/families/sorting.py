"""Sorting, and selecting the first or last items in an order."""

from collections.abc import Callable, Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import INTS, NATS
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation


def sorting() -> Iterator[Draft]:
    """Sorting, and selecting the first or last items in an order."""
    for k in range(2, 10):
        yield _by_distance(k)
        yield _by_remainder(k)
    for k in range(1, 7):
        yield _top(k)
        yield _bottom(k)
    for test in operations.TESTS:
        yield _sort_kept(test)
    for change in operations.MAPS[:18]:
        yield _sort_changed(change)


def _by_distance(k: int) -> Draft:
    return _sort_by(f"their distance from {k}", f"abs (x - {k})", lambda x: abs(x - k))


def _by_remainder(k: int) -> Draft:
    return _sort_by(f"their remainder after division by {k}", f"x mod {k}", lambda x: x % k)


def _sort_by(words: str, code: str, key: Callable[[int], int]) -> Draft:
    about = f"The numbers of a list sorted by {words}, equal ones in their old order."
    body = f"let key x = {code} in\nList.stable_sort (fun a b -> compare (key a) (key b)) xs"
    return Draft("sort_by", about, {"xs": NATS}, "int list", body, lambda xs: sorted(xs, key=key))


def _top(k: int) -> Draft:
    about = f"The {k} largest numbers of a list, largest first, or all where there are fewer."
    body = f"List.filteri (fun i _ -> i < {k}) (List.sort (fun a b -> compare b a) xs)"
    return Draft("top", about, {"xs": INTS}, "int list", body, lambda xs: sorted(xs, reverse=True)[:k])


def _bottom(k: int) -> Draft:
    about = f"The {k} smallest numbers of a list, smallest first, or all where there are fewer."
    body = f"List.filteri (fun i _ -> i < {k}) (List.sort compare xs)"
    return Draft("bottom", about, {"xs": INTS}, "int list", body, lambda xs: sorted(xs)[:k])


def _sort_kept(test: Operation) -> Draft:
    about = f"The numbers of a list that are {test.words}, in ascending order."
    body = f"List.sort compare (List.filter (fun x -> {test.code('x')}) xs)"
    return Draft("sort_kept", about, {"xs": INTS}, "int list", body, lambda xs: sorted(filter(test.apply, xs)))


def _sort_changed(change: Operation) -> Draft:
    about = f"The numbers of a list, each {change.words}, in descending order."
    body = f"List.sort (fun a b -> compare b a) (List.map (fun x -> {change.code('x')}) xs)"
    return Draft(
        "sort_changed", about, {"xs": INTS}, "int list", body, lambda xs: sorted(map(change.apply, xs), reverse=True)
    )

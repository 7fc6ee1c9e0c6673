"""Variant types and matching on them."""

from collections.abc import Iterator
from random import Random

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import Domain, list_of
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation, combinations
from cluster.problems.builtin.values import Con, con

_CHOICES = {
    "light": ("Red", "Amber", "Green"),
    "size": ("Small", "Medium", "Large"),
    "side": ("Left", "Right", "Top", "Bottom"),
    "coin": ("Penny", "Nickel", "Dime"),
    "season": ("Spring", "Summer", "Autumn", "Winter"),
    "level": ("Low", "Middle", "High"),
}


def variants() -> Iterator[Draft]:
    """Variant types and matching on them."""
    for name, constructors in _CHOICES.items():
        for index in range(6):
            values = [(index * 7 + 3 + j * (index + 2)) % 19 + 1 for j in range(len(constructors))]
            yield _value_of(name, constructors, values)
    for name, constructors in _CHOICES.items():
        for constructor in constructors:
            yield _count_constructor(name, constructors, constructor)
    for left, right in combinations("variants-apply", 36, operations.MAPS, operations.MAPS):
        if left is not right:
            yield _apply_operation(left, right)
    for a, b in combinations("variants-area", 16, range(1, 6), range(1, 6)):
        yield _cost(a, b)


def _definition(name: str, constructors: tuple[str, ...]) -> str:
    return f"type {name} = {' | '.join(constructors)}"


def _any_of(name: str, constructors: tuple[str, ...]) -> Domain:
    return Domain(type=name, draw=lambda rng: Con(rng.choice(constructors)))


def _value_of(name: str, constructors: tuple[str, ...], values: list[int]) -> Draft:
    points = dict(zip(constructors, values, strict=True))
    about = f"The points of a list of {name}s: {', '.join(f'{value} for {key}' for key, value in points.items())}."
    cases = " | ".join(f"{key} -> {value}" for key, value in points.items())
    body = f"let points x = match x with {cases} in\nList.fold_left (fun acc x -> acc + points x) 0 xs"
    params = {"xs": list_of(_any_of(name, constructors), longest=4)}
    types = _definition(name, constructors)
    return Draft("points", about, params, "int", body, lambda xs: sum(points[x.name] for x in xs), types=types)


def _count_constructor(name: str, constructors: tuple[str, ...], constructor: str) -> Draft:
    about = f"How many items of a list of {name}s are {constructor}."
    body = f"List.length (List.filter (fun x -> x = {constructor}) xs)"
    params = {"xs": list_of(_any_of(name, constructors), longest=5)}
    types = _definition(name, constructors)
    return Draft(
        "how_many", about, params, "int", body, lambda xs: [x.name for x in xs].count(constructor), types=types
    )


def _apply_operation(left: Operation, right: Operation) -> Draft:
    about = f"The number in First {left.words}, the number in Second {right.words}."
    body = f"match x with\n| First n -> {left.code('n')}\n| Second n -> {right.code('n')}"
    params = {"x": Domain(type="choice", draw=lambda rng: con(rng.choice(("First", "Second")), rng.randint(-9, 12)))}
    return Draft(
        "value",
        about,
        params,
        "int",
        body,
        lambda x: (left if x.name == "First" else right).apply(x.args[0]),
        types="type choice = First of int | Second of int",
    )


def _cost(a: int, b: int) -> Draft:
    about = f"The price of an order: {a} for each Tea, {b} for each Cake, 0 for Nothing."
    body = f"match order with\n| Tea n -> {a} * n\n| Cake n -> {b} * n\n| Nothing -> 0"

    def draw(rng: Random) -> object:
        return rng.choice((con("Tea", rng.randint(1, 9)), con("Cake", rng.randint(1, 9)), con("Nothing")))

    prices = {"Tea": a, "Cake": b}
    return Draft(
        "price",
        about,
        {"order": Domain(type="order", draw=draw)},
        "int",
        body,
        lambda order: prices[order.name] * order.args[0] if order.args else 0,
        types="type order = Tea of int | Cake of int | Nothing",
    )

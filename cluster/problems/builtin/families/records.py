"""Records of two fields."""

from collections.abc import Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import Domain, list_of
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation, combinations
from cluster.problems.builtin.values import record

POINT = Domain(type="point", draw=lambda rng: record(x=rng.randint(-12, 12), y=rng.randint(-9, 9)))


POINT_TYPE = "type point = { x : int; y : int }"


def records() -> Iterator[Draft]:
    """Records of two fields."""
    for left, right in combinations("records-move", 45, operations.MAPS[:13], operations.MAPS[:13]):
        yield _move(left, right)
    for change in operations.MAPS:
        yield _with_x(change)
    for test in operations.TESTS:
        yield _points_where(test)
    for a, b in combinations("records-weight", 14, range(2, 8), range(2, 8)):
        yield _weight(a, b)


def _move(left: Operation, right: Operation) -> Draft:
    about = f"A point with its x {left.words} and its y {right.words}."
    body = f"{{ x = {left.code('p.x')}; y = {right.code('p.y')} }}"
    return Draft(
        "move",
        about,
        {"p": POINT},
        "point",
        body,
        lambda p: record(x=left.apply(p.x), y=right.apply(p.y)),
        types=POINT_TYPE,
    )


def _with_x(change: Operation) -> Draft:
    about = f"A point with its x {change.words} and the same y."
    body = f"{{ p with x = {change.code('p.x')} }}"
    return Draft(
        "with_x", about, {"p": POINT}, "point", body, lambda p: record(x=change.apply(p.x), y=p.y), types=POINT_TYPE
    )


def _points_where(test: Operation) -> Draft:
    about = f"The y of all points of a list whose x is {test.words}."
    body = f"List.map (fun p -> p.y) (List.filter (fun p -> {test.code('p.x')}) points)"
    params = {"points": list_of(POINT, longest=4)}
    return Draft(
        "ys", about, params, "int list", body, lambda ps: [p.y for p in ps if test.apply(p.x)], types=POINT_TYPE
    )


def _weight(a: int, b: int) -> Draft:
    about = f"{a} times the x of a point minus {b} times its y."
    return Draft(
        "weigh", about, {"p": POINT}, "int", f"{a} * p.x - {b} * p.y", lambda p: a * p.x - b * p.y, types=POINT_TYPE
    )

"""Values that may be missing."""

from collections.abc import Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import INTS, NAT, ints, option_of
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation, balanced_ints, combinations
from cluster.problems.builtin.values import NONE, Con, some

OPTION = option_of(ints(-9, 12))


def options() -> Iterator[Draft]:
    """Values that may be missing."""
    for change, k in combinations("options-default", 50, operations.MAPS, range(-2, 9)):
        yield _or_default(change, k)
    for change in operations.MAPS:
        yield _option_map(change)
    for test in operations.TESTS:
        yield _only_if(test)
        yield _first_such(test)
    for test, change in combinations("options-guarded", 30, operations.TESTS, operations.MAPS):
        yield _guarded(test, change)
    for k in range(2, 9):
        yield _safe_divide(k)
    for k in range(5):
        yield _nth(k)
    for k in range(10):
        yield _sum_or(k)


def _or_default(change: Operation, k: int) -> Draft:
    about = f"The number in an option {change.words}, {k} for None."
    body = f"match o with\n| Some n -> {change.code('n')}\n| None -> {k}"
    return Draft("or_default", about, {"o": OPTION}, "int", body, lambda o: change.apply(o.args[0]) if o.args else k)


def _option_map(change: Operation) -> Draft:
    about = f"An option with its number {change.words}."
    body = f"match o with\n| Some n -> Some ({change.code('n')})\n| None -> None"
    return Draft(
        "inside", about, {"o": OPTION}, "int option", body, lambda o: some(change.apply(o.args[0])) if o.args else NONE
    )


def _only_if(test: Operation) -> Draft:
    about = f"Some number if it is {test.words}, else None."
    body = f"if {test.code('n')} then Some n else None"
    return Draft(
        "only_if",
        about,
        {"n": balanced_ints(test.apply)},
        "int option",
        body,
        lambda n: some(n) if test.apply(n) else NONE,
    )


def _first_such(test: Operation) -> Draft:
    about = f"The first number of a list that is {test.words}, if any."
    body = f"List.find_opt (fun x -> {test.code('x')}) xs"
    return Draft("first_such", about, {"xs": INTS}, "int option", body, lambda xs: _first(filter(test.apply, xs)))


def _first(items: Iterator[object]) -> Con:
    return next(map(some, items), NONE)


def _guarded(test: Operation, change: Operation) -> Draft:
    about = f"Some number {change.words} if it is {test.words}, else None."
    body = f"if {test.code('n')} then Some ({change.code('n')}) else None"
    return Draft(
        "guarded",
        about,
        {"n": balanced_ints(test.apply)},
        "int option",
        body,
        lambda n: some(change.apply(n)) if test.apply(n) else NONE,
    )


def _safe_divide(k: int) -> Draft:
    about = f"a / b plus {k}, None where b is 0."
    body = f"if b = 0 then None else Some (a / b + {k})"
    params = {"a": NAT, "b": ints(0, 5, 0)}
    return Draft("divide", about, params, "int option", body, lambda a, b: some(a // b + k) if b else NONE)


def _nth(k: int) -> Draft:
    about = f"The item at position {k} of a list, counted from 0, if there is one."
    body = f"List.nth_opt xs {k}"
    return Draft("item_at", about, {"xs": INTS}, "int option", body, lambda xs: some(xs[k]) if k < len(xs) else NONE)


def _sum_or(k: int) -> Draft:
    about = f"The sum of two options, where None counts as {k}."
    body = f"let get o = match o with Some n -> n | None -> {k} in\nget a + get b"
    return Draft(
        "sum_options",
        about,
        {"a": OPTION, "b": OPTION},
        "int",
        body,
        lambda a, b: (a.args[0] if a.args else k) + (b.args[0] if b.args else k),
    )

"""One or two branches on a number."""

from collections.abc import Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import BOOL, INT, ints
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation, balanced_ints, combinations


def conditions() -> Iterator[Draft]:
    """One or two branches on a number."""
    for test, yes, no in combinations("conditions-if", 120, operations.TESTS, operations.MAPS, operations.MAPS):
        if yes is not no and operations.has_effect(test, yes):
            yield _either(test, yes, no)
    for test, yes in combinations("conditions-only_if", 50, operations.TESTS, operations.MAPS):
        if operations.has_effect(test, yes):
            yield _only_if(test, yes)
    for low, high in combinations("conditions-clamp", 16, range(-5, 3), range(5, 12)):
        yield _clamp(low, high)
    for below, equal, above in combinations(
        "conditions-sign", 18, ("low", "cold", "less"), ("same", "zero"), ("high", "hot", "more")
    ):
        for k in combinations(f"conditions-sign-{below}-{equal}-{above}", 1, range(9)):
            yield _three_way(below, equal, above, k[0])
    for yes, no in combinations("conditions-flag", 24, operations.MAPS[:10], operations.MAPS[10:]):
        yield _flag(yes, no)


def _either(test: Operation, yes: Operation, no: Operation) -> Draft:
    about = f"A number {yes.words} if it is {test.words}, else {no.words}."
    body = f"if {test.code('n')} then {yes.code('n')} else {no.code('n')}"
    return Draft(
        "choose",
        about,
        {"n": balanced_ints(test.apply)},
        "int",
        body,
        lambda n: (yes if test.apply(n) else no).apply(n),
    )


def _only_if(test: Operation, yes: Operation) -> Draft:
    about = f"A number {yes.words} if it is {test.words}, else the number itself."
    body = f"if {test.code('n')} then {yes.code('n')} else n"
    return Draft(
        "change_if",
        about,
        {"n": balanced_ints(test.apply)},
        "int",
        body,
        lambda n: yes.apply(n) if test.apply(n) else n,
    )


def _clamp(low: int, high: int) -> Draft:
    about = f"A number limited to the range {low} to {high}."
    shown = f"({low})" if low < 0 else f"{low}"
    body = f"max {shown} (min {high} n)"
    return Draft(
        "limit", about, {"n": ints(low - 9, high + 9, low, high)}, "int", body, lambda n: max(low, min(high, n))
    )


def _three_way(below: str, equal: str, above: str, k: int) -> Draft:
    about = f'"{below}" for a number below {k}, "{equal}" for {k}, "{above}" above it.'
    body = f'if n < {k} then "{below}" else if n = {k} then "{equal}" else "{above}"'
    params = {"n": ints(k - 9, k + 9, k)}
    return Draft("compare_to", about, params, "string", body, lambda n: below if n < k else equal if n == k else above)


def _flag(yes: Operation, no: Operation) -> Draft:
    about = f"A number {yes.words} if the flag is set, else {no.words}."
    body = f"if flag then {yes.code('n')} else {no.code('n')}"
    return Draft(
        "by_flag", about, {"flag": BOOL, "n": INT}, "int", body, lambda flag, n: (yes if flag else no).apply(n)
    )

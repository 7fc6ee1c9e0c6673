"""Lists of pairs of a name and a number."""

from collections.abc import Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import WORD, ints, list_of, tuple_of
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation

NAMED = list_of(tuple_of(WORD, ints(-5, 12)), longest=4)


def pairs() -> Iterator[Draft]:
    """Lists of pairs of a name and a number."""
    for test in operations.TESTS:
        yield _names_where(test)
        yield _sum_where(test)
    for change in operations.MAPS:
        yield _change_numbers(change)
    for k in range(10):
        yield _lookup_or(k)
    for test in operations.STRING_TESTS:
        yield _numbers_where(test)


def _names_where(test: Operation) -> Draft:
    about = f"The names in a list of pairs whose number is {test.words}."
    body = f"List.map fst (List.filter (fun (_, x) -> {test.code('x')}) pairs)"
    return Draft("names", about, {"pairs": NAMED}, "string list", body, lambda ps: [a for a, x in ps if test.apply(x)])


def _sum_where(test: Operation) -> Draft:
    about = f"The sum of the numbers in a list of pairs that are {test.words}."
    body = f"List.fold_left (fun acc (_, x) -> if {test.code('x')} then acc + x else acc) 0 pairs"
    return Draft("sum_pairs", about, {"pairs": NAMED}, "int", body, lambda ps: sum(x for _, x in ps if test.apply(x)))


def _change_numbers(change: Operation) -> Draft:
    about = f"A list of pairs with every number {change.words}."
    body = f"List.map (fun (a, x) -> (a, {change.code('x')})) pairs"
    return Draft(
        "change_numbers", about, {"pairs": NAMED}, NAMED.type, body, lambda ps: [(a, change.apply(x)) for a, x in ps]
    )


def _lookup_or(k: int) -> Draft:
    about = f"The number that stands with a name in a list of pairs, {k} where the name is missing."
    body = f"match List.assoc_opt name pairs with\n| Some x -> x\n| None -> {k}"
    cases = [
        ("ox", [("ox", 3), ("elm", 8)]),
        ("elm", [("ox", 3)]),
        ("ivy", [("elm", 12), ("ivy", 6)]),
        ("fox", [("fox", 11)]),
    ]
    params = {"name": WORD, "pairs": NAMED}
    return Draft("lookup_or", about, params, "int", body, lambda name, ps: dict(reversed(ps)).get(name, k), cases=cases)


def _numbers_where(test: Operation) -> Draft:
    about = f"The numbers in a list of pairs whose name is {test.words}."
    body = f"List.map snd (List.filter (fun (a, _) -> {test.code('a')}) pairs)"
    return Draft(
        "numbers_of", about, {"pairs": NAMED}, "int list", body, lambda ps: [x for a, x in ps if test.apply(a)]
    )

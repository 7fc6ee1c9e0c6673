"""Easy parsing: numbers and fields out of text."""

from collections.abc import Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import (
    Domain,
    list_of,
    text,
)
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation


def reading() -> Iterator[Draft]:
    """Easy parsing: numbers and fields out of text."""
    for mark in ",;:-/+":
        yield _read_sum(mark)
        yield _read_second(mark)
        yield _read_max(mark)
    for k in range(1, 9):
        yield _read_or(k)
        yield _read_times(k + 1)
    for test in (operations.EVEN, operations.ODD, *operations.TESTS[4:8], *operations.TESTS[9:]):
        yield _read_kept(test)


def _numbers_text(mark: str) -> Domain:
    return Domain(
        type="string",
        draw=lambda rng: mark.join(str(rng.randint(0, 40)) for _ in range(rng.randint(2, 4))),
        edges=("7",),
    )


def _read_sum(mark: str) -> Draft:
    about = f"The sum of the numbers of a string that are separated by '{mark}'."
    body = f"List.fold_left (fun acc x -> acc + int_of_string x) 0 (String.split_on_char '{mark}' s)"
    return Draft("read_sum", about, {"s": _numbers_text(mark)}, "int", body, lambda s: sum(map(int, s.split(mark))))


def _read_second(mark: str) -> Draft:
    about = f"The numbers of a string that are separated by '{mark}'."
    body = f"List.map int_of_string (String.split_on_char '{mark}' s)"
    return Draft(
        "read_all", about, {"s": _numbers_text(mark)}, "int list", body, lambda s: list(map(int, s.split(mark)))
    )


def _read_max(mark: str) -> Draft:
    about = f"The largest of the numbers of a string that are separated by '{mark}'."
    body = f"List.fold_left max 0 (List.map int_of_string (String.split_on_char '{mark}' s))"
    return Draft("read_max", about, {"s": _numbers_text(mark)}, "int", body, lambda s: max(map(int, s.split(mark))))


def _read_or(k: int) -> Draft:
    about = f"The number that a string spells, {k} where it spells none."
    body = f"match int_of_string_opt s with\n| Some n -> n\n| None -> {k}"
    params = {"s": text("0123456789x", 2)}
    return Draft(
        "read_or", about, params, "int", body, lambda s: int(s) if s.isdigit() else k, cases=[("12",), ("x1",)]
    )


def _read_times(k: int) -> Draft:
    about = f"The number that a string spells, times {k}."
    return Draft(
        "read_times", about, {"s": text("123456789", 3, "0")}, "int", f"int_of_string s * {k}", lambda s: int(s) * k
    )


def _read_kept(test: Operation) -> Draft:
    about = f"Those of the numbers that a list of words spells that are {test.words}."
    body = f"List.filter (fun x -> {test.code('x')}) (List.map int_of_string words)"
    params = {"words": list_of(text("123456789", 2, "0"), longest=5)}
    return Draft("read_kept", about, params, "int list", body, lambda ws: [int(w) for w in ws if test.apply(int(w))])

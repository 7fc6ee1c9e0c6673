"""Whole strings."""

from collections.abc import Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import (
    MIXED,
    WORD,
    text,
)
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation, combinations


def strings() -> Iterator[Draft]:
    """Whole strings."""
    for first, second in combinations("strings-two_steps", 36, operations.STRING_MAPS[:3], operations.STRING_MAPS[3:]):
        yield _then(first, second)
    for test, change in combinations("strings-change_if", 60, operations.STRING_TESTS, operations.STRING_MAPS):
        yield _change_if(test, change)
    for test in operations.STRING_TESTS:
        yield _is(test)
    for test in operations.CHAR_TESTS:
        yield _count_chars(test)
        yield _mark_chars(test)
    for old, new in combinations("strings-replace", 24, "aeioub", "_-*+xz"):
        yield _replace(old, new)
    for k in range(1, 6):
        yield _first_chars(k)
        yield _last_chars(k)
        yield _repeated(k + 1)
    for left, right in (("(", ")"), ("[", "]"), ("<", ">"), ("{", "}"), ("*", "*"), ("--", "--"), ("~", "~")):
        yield _wrapped(left, right)
    for mark in "-+_/.:":
        yield _between(mark)
    for mark in ",;:-/+":
        yield _pieces(mark)
        yield _first_piece(mark)


def _then(first: Operation, second: Operation) -> Draft:
    about = f"A word {first.words}, then {second.words}."
    body = f"let t = {first.code('s')} in\n{second.code('t')}"
    return Draft("restyle", about, {"s": WORD}, "string", body, lambda s: second.apply(first.apply(s)))


def _change_if(test: Operation, change: Operation) -> Draft:
    about = f"A word {change.words} if it is {test.words}, else the word itself."
    body = f"if {test.code('s')} then {change.code('s')} else s"
    return Draft("style_if", about, {"s": WORD}, "string", body, lambda s: change.apply(s) if test.apply(s) else s)


def _is(test: Operation) -> Draft:
    return Draft("is_so", f"Whether a word is {test.words}.", {"s": WORD}, "bool", test.code("s"), test.apply)


def _count_chars(test: Operation) -> Draft:
    about = f"How many characters of a string are {test.words}."
    body = f"String.fold_left (fun acc c -> if {test.code('c')} then acc + 1 else acc) 0 s"
    return Draft("count_chars", about, {"s": MIXED}, "int", body, lambda s: sum(map(test.apply, s)))


def _mark_chars(test: Operation) -> Draft:
    about = f"A string with '*' in place of every character that is {test.words}."
    body = f"String.map (fun c -> if {test.code('c')} then '*' else c) s"
    return Draft("mark", about, {"s": MIXED}, "string", body, lambda s: "".join("*" if test.apply(c) else c for c in s))


def _replace(old: str, new: str) -> Draft:
    about = f"A string with '{new}' in place of every '{old}'."
    body = f"String.map (fun c -> if c = '{old}' then '{new}' else c) s"
    params = {"s": text(f"{old}{old}{new}kr", 8)}
    return Draft("replace", about, params, "string", body, lambda s: s.replace(old, new))


def _first_chars(k: int) -> Draft:
    about = f"The first {k} characters of a string, or all of a shorter one."
    return Draft(
        "first_chars", about, {"s": WORD}, "string", f"String.sub s 0 (min {k} (String.length s))", lambda s: s[:k]
    )


def _last_chars(k: int) -> Draft:
    about = f"A string without its first {k} characters."
    body = f"let k = min {k} (String.length s) in\nString.sub s k (String.length s - k)"
    return Draft("cut_start", about, {"s": WORD}, "string", body, lambda s: s[k:])


def _repeated(k: int) -> Draft:
    about = f"A string written {k} times in a row."
    return Draft("repeated", about, {"s": WORD}, "string", " ^ ".join("s" * k), lambda s: s * k)


def _wrapped(left: str, right: str) -> Draft:
    about = f'A string between "{left}" and "{right}".'
    body = f'"{left}" ^ s ^ "{right}"'
    return Draft("wrap", about, {"s": WORD}, "string", body, lambda s: left + s + right)


def _between(mark: str) -> Draft:
    about = f'Two words with "{mark}" between them, the second in upper case.'
    body = f'a ^ "{mark}" ^ String.uppercase_ascii b'
    return Draft("pair_up", about, {"a": WORD, "b": WORD}, "string", body, lambda a, b: a + mark + b.upper())


def _pieces(mark: str) -> Draft:
    about = f"How many pieces a string has that are separated by '{mark}'."
    body = f"List.length (String.split_on_char '{mark}' s)"
    return Draft("num_pieces", about, {"s": text(f"ab{mark}", 7)}, "int", body, lambda s: s.count(mark) + 1)


def _first_piece(mark: str) -> Draft:
    about = f"What stands before the first '{mark}' of a string, all of it where there is none."
    body = f"List.hd (String.split_on_char '{mark}' s)"
    return Draft("head_piece", about, {"s": text(f"abcd{mark}", 8)}, "string", body, lambda s: s.split(mark)[0])

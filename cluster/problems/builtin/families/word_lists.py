"""Lists of words and their lengths."""

from collections.abc import Iterator

from cluster.problems.builtin import operations
from cluster.problems.builtin.domains import (
    STRINGS,
)
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.operations import Operation


def word_lists() -> Iterator[Draft]:
    """Lists of words and their lengths."""
    for test in operations.STRING_TESTS:
        yield _lengths_of(test)
    for k in range(2, 9):
        yield _total_length(k)
        yield _label_all(k)
    for mark in "-+*#.":
        yield _bullets(mark)


def _lengths_of(test: Operation) -> Draft:
    about = f"The lengths of the words that are {test.words}."
    body = f"List.map String.length (List.filter (fun w -> {test.code('w')}) words)"
    return Draft(
        "lengths", about, {"words": STRINGS}, "int list", body, lambda ws: [len(w) for w in ws if test.apply(w)]
    )


def _total_length(k: int) -> Draft:
    about = f"The sum of the lengths of all words, each word counted {k} longer than it is."
    body = f"List.fold_left (fun acc w -> acc + String.length w + {k}) 0 words"
    return Draft("total_length", about, {"words": STRINGS}, "int", body, lambda ws: sum(len(w) + k for w in ws))


def _label_all(k: int) -> Draft:
    about = f"Every word with its number in front and ':' between, numbers from {k} on."
    body = f'List.mapi (fun i w -> string_of_int (i + {k}) ^ ":" ^ w) words'
    return Draft(
        "label_all",
        about,
        {"words": STRINGS},
        "string list",
        body,
        lambda ws: [f"{i}:{w}" for i, w in enumerate(ws, k)],
    )


def _bullets(mark: str) -> Draft:
    about = f'Every word with "{mark} " in front, all in one string with line ends between them.'
    body = f'String.concat "\\n" (List.map (fun w -> "{mark} " ^ w) words)'
    return Draft("bullets", about, {"words": STRINGS}, "string", body, lambda ws: "\n".join(f"{mark} {w}" for w in ws))

"""Problems shared by the grader's tests."""

from cluster.types import Problem
from grader.signature import split_prompt


def problem(prompt: str, tests: str, identifier: str = "made") -> Problem:
    statement, signature = split_prompt(prompt)
    return Problem(id=identifier, statement=statement, signature=signature, tests=tests)


# Neither a constant nor the identity passes any of these asserts.
TWICE = problem(
    "(** Twice a number.\n * >>> twice 3\n * 6\n *)\nlet twice (x : int) : int =",
    "let () =\n  assert (twice 1 = 2);\n  assert (twice 2 = 4);\n  assert (twice 3 = 6);\n  assert (twice (-4) = -8);\n;;",
    "twice",
)

SORTED = problem(
    "(** Sort a list of words by length, drop the empty ones.\n *)\nlet by_length (words : string list) : string list =",
    'let () =\n  assert (by_length ["ccc"; "a"; ""] = ["a"; "ccc"]);\n'
    '  assert (not (by_length ["bb"; "a"] <> ["a"; "bb"]));\n'
    '  assert (List.length (by_length ["x"; ""; "yy"; "zzz"]) = 3 && List.mem "yy" (by_length ["yy"]));\n'
    '  assert (compare (by_length ["b"; "aa"; ""]) ["b"; "aa"] = 0);\n;;',
    "by_length",
)

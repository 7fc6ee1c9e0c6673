from pathlib import Path

import pytest

from cluster.errors import UngradableError
from cluster.problems.dataset import load_problems
from cluster.types import FinishReason
from grader.grade import Grader
from grader.inspection import read_inspection

from .audit_cases import INT, SOLVABLE, UNSOLVABLE, one_line
from .problems import problem

REAL_DATA_SET = Path(__file__).parents[3] / "shared/data/ocaml_problems.jsonl"
UNSOLVABLE_CASES = [(code, name) for code, cases in UNSOLVABLE.items() for name in cases]


@pytest.mark.parametrize("name", SOLVABLE)
def test_a_solvable_problem_has_no_cause(grader: Grader, name: str) -> None:
    assert grader.inspect(SOLVABLE[name]).causes == ()


@pytest.mark.parametrize(("code", "name"), UNSOLVABLE_CASES)
def test_an_unsolvable_problem_has_its_cause(grader: Grader, code: str, name: str) -> None:
    causes = grader.inspect(UNSOLVABLE[code][name]).causes
    assert code in {cause.partition(":")[0] for cause in causes}, causes


def test_a_cause_names_the_line_of_the_tests(grader: Grader) -> None:
    broken = problem(INT, "let () =\n  assert (f 1 = 1);\n  assert (f 2 = two)\n")
    assert grader.inspect(broken).causes == ("tests_do_not_type_check: line 3: Unbound value two",)


def test_a_name_that_the_solution_must_define_is_a_warning(grader: Grader) -> None:
    (warning,) = grader.inspect(SOLVABLE["an exception that the statement names"]).warnings
    assert warning.startswith("needs_definitions: exception Negative")


def test_an_example_that_contradicts_the_tests_is_a_warning(grader: Grader) -> None:
    contradicted = one_line("(** f\n * >>> f 1\n * 2\n *)\nlet f (x : int) : int =", "assert (f 1 = 3)")
    assert grader.inspect(contradicted).warnings == (
        "example_disagrees: line 1: (f 1) is 2 in the statement, 3 in the tests",
    )


# Prompt, asserts, and for each assert "1" if an example covers it, else "0".
COVERAGE = {
    "the value on the next line": (
        "(** f\n * >>> f [1; 2]\n * 3\n * >>> f []\n * 0 *)\nlet f l =",
        "assert (f [1;2] = 3); assert (0 = (f ([]))); assert (f [3] = 4)",
        "110",
    ),
    "the toplevel's answer": ("(** >>> f 1\n * - : int = 3\n *)\nlet f x =", "assert (f 1 = 3)", "1"),
    "the toplevel's prompt": ("(** # f 1;;\n - : int = 3\n *)\nlet f x =", "assert (f 1 = 3)", "1"),
    "a string without quotes": ('(** >>> f "a"\n * abc\n *)\nlet f x =', 'assert (f "a" = "abc")', "1"),
    "a list of strings without quotes": (
        '(** >>> f "a"\n * [abc; d e]\n *)\nlet f x =',
        'assert (f "a" = ["abc"; "d e"])',
        "1",
    ),
    "a value on several lines": ("(** >>> f 3\n * [1;\n *  2]\n *)\nlet f x =", "assert (f 3 = [1; 2])", "1"),
    "a float without a point": (
        "(** >>> f 3\n * 4\n *)\nlet f (x : int) : float =",
        "assert (f 3 = 4.0); assert (f 4 = 4.)",
        "10",
    ),
    "an equation": ("(** f 3 = 4 *)\nlet f x =", "assert (f 3 = 4)", "1"),
    "a sentence": ("(** For example `f 3` returns `4`. *)\nlet f x =", "assert (f 3 = 4)", "1"),
    "an arrow": ("(**\n  f 3 => 4\n*)\nlet f x =", "assert (f 3 = 4)", "1"),
    "truth values": (
        "(** >>> f 3\n true\n >>> f 4\n false *)\nlet f (x : int) : bool =",
        "assert (f 3); assert (not (f 4)); assert (f 5); assert (f 4 <> true)",
        "1101",
    ),
    "a value that is nearly the same": (
        "(** >>> f 3.\n 0.333 *)\nlet f x =",
        "assert (abs_float (f 3. -. 0.33301) < 0.001)",
        "1",
    ),
    "another value": ("(** >>> f 3\n 4 *)\nlet f (x : int) : int =", "assert (f 3 <> 4); assert (f 3 > 3)", "00"),
    "spaces inside of strings": (
        '(** >>> f "x y"\n "a" *)\nlet f x =',
        'assert (f "x y" = "a"); assert (f "xy" = "a")',
        "10",
    ),
    "two claims in one": (
        "(** >>> f 1\n 2 *)\nlet f x =",
        "assert (f 1 = 2 && f 1 = 2); assert (f 1 = 2 && f 2 = 3)",
        "10",
    ),
    "fields in another order": (
        "(** >>> f {x = 1; y = 2}\n 3 *)\ntype p = {x : int; y : int}\nlet f (a : p) =",
        "assert (f {y = 2; x = 1} = 3)",
        "1",
    ),
    "no example": ("(** >>> function_name input\n * output *)\nlet f x =", "assert (f 1 = 2)", "0"),
    "no ocaml": ('(** says "unterminated *)\nlet f x =', "assert (f 1 = 2)", "0"),
}


@pytest.mark.parametrize("name", COVERAGE)
def test_asserts_covered_by_an_example_are_found(grader: Grader, name: str) -> None:
    prompt, asserts, expected = COVERAGE[name]
    example_problem = one_line(prompt, asserts)
    assert "".join("01"[covered] for covered in grader.inspect(example_problem).covered_by_example) == expected
    assert (
        grader.inspect(example_problem, everything=False).covered_by_example
        == grader.inspect(example_problem).covered_by_example
    )


def test_asserts_are_in_the_order_in_which_they_are_graded(grader: Grader) -> None:
    nested = problem(
        "(** >>> f 2\n 2 *)\nlet f x =",
        "let check () = assert (f 1 = 1); assert (f 2 = 2); assert (f 3 = 3)\nlet () = check (); assert (f 4 = 4)",
    )
    # This solution fails only the covered assert, at the index that the inspection reports.
    facts = grader.grade(nested, "let f x = if x = 2 then 0 else x", FinishReason.STOP).facts
    covered = grader.inspect(nested).covered_by_example
    assert len(covered) == len(facts.asserts) == 4
    assert [str(facts.asserts[index]) for index, is_covered in enumerate(covered) if is_covered] == ["failed"]


def test_a_problem_is_inspected_once(grader: Grader) -> None:
    assert grader.inspect(one_line(INT, "assert (f 1 = 7)")) is grader.inspect(one_line(INT, "assert (f 1 = 7)"))


def test_tests_that_exhaust_the_compiler_are_a_cause_and_the_grader_continues(grader: Grader) -> None:
    bomb = problem(INT, "let p x = (x, x)\nlet () = ignore (" + "p (" * 60 + "1" + ")" * 60 + "); assert (f 1 = 1)")
    (cause,) = grader.inspect(bomb).causes
    assert cause.startswith("tests_do_not_compile:")
    assert grader.inspect(one_line(INT, "assert (f 1 = 8)")).causes == ()


def test_a_malformed_answer_is_an_error_of_the_machine() -> None:
    with pytest.raises(UngradableError, match="unknown form"):
        read_inspection([b"assert", b"f 1"])


@pytest.mark.skipif(not REAL_DATA_SET.exists(), reason="the shared data set is missing")
def test_exactly_the_86_broken_tests_of_the_real_set_are_found(grader: Grader) -> None:
    problems = load_problems(str(REAL_DATA_SET)).problems
    causes = [cause for one in problems for cause in grader.inspect(one).causes]
    assert len(causes) == 86
    assert {cause.partition(":")[0] for cause in causes} == {"tests_do_not_parse", "tests_do_not_type_check"}

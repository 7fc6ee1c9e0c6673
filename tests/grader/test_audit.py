import dataclasses

import pytest

from cluster.types import Problem
from grader.audit import audit_problem, unsolvable_causes
from grader.duplicates import DuplicateIndex, fingerprint
from grader.grade import Grader

from .audit_cases import INT, one_line
from .problems import TWICE, problem


def solved(one: Problem, solution: str) -> Problem:
    return dataclasses.replace(one, solution=solution)


def warnings(grader: Grader, one: Problem) -> list[str]:
    return list(audit_problem(grader, one).warnings)


def test_a_sound_problem_only_reports_asserts_covered_by_examples(grader: Grader) -> None:
    audit = audit_problem(grader, solved(TWICE, "let twice x = x + x"))
    assert audit.solvable
    assert audit.warnings == ("shown_asserts: 1 of 4 asserts are covered by the statement's examples",)


def test_a_reference_solution_that_fails_is_a_warning(grader: Grader) -> None:
    wrong = solved(one_line(INT, "assert (f 1 = 1); assert (f 2 = 4)"), "let f x = x")
    assert warnings(grader, wrong) == ["reference_fails: 1 of 2 asserts pass"]
    (warning,) = warnings(grader, dataclasses.replace(wrong, solution="let f x = x ^ x"))
    assert warning.startswith("reference_fails: it does not compile with the tests (")
    assert audit_problem(grader, wrong).solvable


def test_a_reference_solution_that_passes_refutes_the_cause(grader: Grader) -> None:
    odd = one_line("(** f *)\nlet f (x : list) =", "assert (f 1 = 1)")
    assert unsolvable_causes(grader, odd)
    assert unsolvable_causes(grader, solved(odd, "let f x = x")) == ()
    audit = audit_problem(grader, solved(odd, "let f x = x"))
    assert audit.solvable
    assert audit.warnings[0].startswith("refuted_cause: the reference solution passes and refutes signature_does_not")


def test_asserts_that_a_stub_passes_are_a_warning(grader: Grader) -> None:
    lenient = one_line(INT, "assert (f 1 = 1); assert (try ignore (f (-1)); false with _ -> true)")
    assert warnings(grader, lenient) == ["stub_passes: a solution that only raises passes 1 of 2 asserts"]


def test_a_stub_also_completes_a_signature_that_ends_with_function(grader: Grader) -> None:
    lenient = one_line(
        "(** f *)\nlet f = function", "assert (f 1 = 1); assert (try ignore (f 2); false with _ -> true)"
    )
    assert "stub_passes: a solution that only raises passes 1 of 2 asserts" in warnings(grader, lenient)


def test_a_constant_that_passes_half_of_the_asserts_is_a_warning(grader: Grader) -> None:
    yes = one_line(
        "(** f *)\nlet f (x : int) : bool =", "assert (f 1); assert (f 2 = true); assert (not (f 3)); assert (f 4)"
    )
    assert warnings(grader, yes) == ["constant_passes: true for all arguments passes 3 of 4 asserts (75%)"]
    assert warnings(grader, one_line(INT, "assert (f 1 = 1); assert (f 2 = 2); assert (f 3 = 3)")) == []


def test_a_constant_is_also_tried_on_asserts_that_are_no_equalities(grader: Grader) -> None:
    negative = one_line(INT, "assert (f 1 = -7); assert (f 2 < 0); assert (f 3 < 1)")
    assert warnings(grader, negative) == ["constant_passes: (-7) for all arguments passes 3 of 3 asserts (100%)"]


def test_a_repeated_assert_is_a_warning(grader: Grader) -> None:
    twice = problem(INT, "let () =\n  assert (f 1 = 1);\n  assert (f 2 = 2);\n  assert ((f 1) = 0x1)")
    assert warnings(grader, twice)[0] == (
        "duplicate_asserts: 1 of 3 asserts repeat an earlier one: lines 2, 4: ((f 1) = 1)"
    )


def test_a_renamed_copy_of_a_problem_is_a_warning(grader: Grader) -> None:
    seen = DuplicateIndex()

    def add(identifier: str, name: str, statement: str, values: tuple[int, ...]) -> str:
        asserts = "; ".join(f"assert ({name} {i} = {value})" for i, value in enumerate(values))
        one = dataclasses.replace(one_line(f"(** {statement} *)\nlet {name} (x : int) : int =", asserts), id=identifier)
        return seen.add(fingerprint(one, audit_problem(grader, one).asserts))

    assert add("first", "f", "Say what comes next, one two three.", (1, 2, 3, 4, 5, 6)) == ""
    assert add("same", "g", "Another text.", (1, 2, 3, 4, 5, 6)).startswith(
        "near_duplicate: shares 6 of 6 asserts with first"
    )
    assert add("near", "h", "Another text.", (1, 2, 3, 4, 5, 6, 7)).startswith(
        "near_duplicate: shares 6 of 7 asserts with first"
    )
    assert add("other", "k", "Another text.", (1, 4, 9, 16, 25, 36)) == ""
    assert add("text", "z", "Say what comes next: one, two, three!", (7, 7, 7)) == (
        "near_duplicate: has the same statement as first"
    )


@pytest.mark.parametrize(
    ("signature", "tests", "warned"),
    [
        ("let f (a : int) : int -> int =", "assert (f 1 = f 1)", True),
        ("let f (a : int) (b : int) : int =", "let g = f 1 in assert (compare (f 1) g = 0)", True),
        ("let f (a : int) : int -> int =", "assert (List.for_all2 ( = ) [ f 1 ] [ f 2 ])", True),
        ("let f (a : int) : (int -> int) * int =", "assert (f 1 <> f 2)", True),
        ("let f (a : int) : int -> int =", "assert (f 1 2 = f 1 3)", False),
        ("let f (a : int) : int -> int =", "assert (f 1 == f 2)", False),
        ("let f (a : int) : int -> int =", "let ( = ) g h = g 1 == h 1 in assert (f 1 = f 2)", False),
        ("let f a =", "assert (f 1 = f 1)", False),
    ],
)
def test_a_comparison_of_functions_is_a_warning(grader: Grader, signature: str, tests: str, warned: bool) -> None:
    problem_warnings = warnings(
        grader, Problem(id="f", statement="(** F. *)", signature=signature, tests=f"let () = {tests}")
    )
    assert any(one.startswith("functional_equality: line 1: ") for one in problem_warnings) == warned


def test_a_signature_that_has_a_body_is_a_warning(grader: Grader) -> None:
    for body, warned in (("n + n", True), ("function", False), ("", False)):
        one = Problem(id="f", statement="(** F. *)", signature=f"let f n = {body}", tests="let () = assert (f 1 = 2)")
        assert any(text.startswith("signature_has_body") for text in warnings(grader, one)) == warned

"""Completions cannot change the types and the names that the tests rely on."""

import pytest

from cluster.types import FinishReason, Problem, Verdict
from grader.grade import Grader

from .problems import problem

EVEN = problem(
    "(** Even? *)\nlet is_even (n : int) : bool =",
    "let () = assert (is_even 2 = true); assert (is_even 3 = false); assert (compare (is_even 5) false = 0)",
)
NUMBER = problem("(** The same. *)\nlet f (n : int) : int =", "let () = assert (f 2 = 2); assert (f 3 = 3)")


@pytest.mark.parametrize(
    "text",
    [
        "type b = ..\ntype b += true\ntype b += false = true\nlet is_even (_ : int) : b = true",
        "exception true\nexception false = true\nlet is_even _ = true",
        "module M () = struct exception true exception false = true end\ninclude M ()\nlet is_even _ = true",
    ],
)
def test_predefined_constructors_cannot_be_made_equal(grader: Grader, text: str) -> None:
    facts = grader.grade(EVEN, text, FinishReason.STOP).facts
    assert (facts.verdict, facts.tests_passed) == (Verdict.INTERFACE, 0)


MAGIC = """\
type ('a, 'b) s = A of 'a | B of 'b
type ('a, 'b) r = {{ f : bool; mutable c : ('a, 'b) s }}
let magic (x : 'a) (y : 'b) : 'b =
  let r = {{ f = true; c = B y }} in
  match r with
  | {{ f = false; c = _ }} -> y
  | {{ f = _; c = A _ }} -> y
  | {pattern} -> y
  | {{ f = true; c = B z }} -> z
  | _ -> y
let f n = magic n n"""


@pytest.mark.parametrize("pattern", ["{ f = _; c = _ } when (r.c <- A x; false)", "{ f = (lazy false); c = _ }"])
def test_a_match_on_data_that_can_change_during_it_is_refused(grader: Grader, pattern: str) -> None:
    text = MAGIC.format(pattern=pattern)
    assert grader.grade(NUMBER, text, FinishReason.STOP).facts.verdict is Verdict.DENIED


@pytest.mark.parametrize(
    "text",
    [
        "type cell = { mutable next : int option }\nlet f n = match { next = Some n } with { next = Some k } -> k | _ -> 0",
        "let f n = match ref n with { contents = k } when k > 0 -> k | _ -> n",
        "let f n = match [| n; 1 |] with [| k; 1 |] when k > 0 -> k | _ -> n",
        "let f n = match Some n, [ n ] with Some k, [ _ ] when k > 0 -> k | _ -> n",
        "type cell = { mutable next : cell option; value : int }\n"
        "let f n = match { next = None; value = n } with { next = None; value } when value > 0 -> value | _ -> 0",
    ],
)
def test_ordinary_matches_are_accepted(grader: Grader, text: str) -> None:
    assert grader.grade(NUMBER, text, FinishReason.STOP).facts.verdict is Verdict.PASSED


def test_big_arrays_cannot_be_reshaped(grader: Grader) -> None:
    text = (
        "let f n = let a = Bigarray.(genarray_of_array1 (Array1.create int c_layout 0)) in\n"
        "  ignore (Bigarray.reshape a [| 1 lsl 32; 1 lsl 32 |]); n"
    )
    assert grader.grade(NUMBER, text, FinishReason.STOP).facts.verdict is Verdict.DENIED


GIVEN = {
    "a module": "module A = struct let eq a b = a = b end",
    "a recursive module": "module rec A : sig val eq : int -> int -> bool end = struct let eq a b = a = b end",
    "an include": "include struct let eq a b = a = b end",
    "a class": "class cell = object method eq (a : int) b = a = b end",
}


def problem_with(given: str) -> Problem:
    use = {"a class": "(new cell)#eq", "an include": "eq"}.get(given, "A.eq")
    tests = f"let () = assert ({use} (f 1) 2); assert ({use} (f 2) 3)"
    return problem(f"(** One more. *)\n{GIVEN[given]}\nlet f (n : int) : int =", tests)


@pytest.mark.parametrize("given", GIVEN)
def test_definitions_of_the_statement_cannot_be_replaced_for_the_tests(grader: Grader, given: str) -> None:
    replaced = {
        "an include": "let eq _ _ = true",
        "a class": "class cell = object method eq (_ : int) (_ : int) = true end",
    }.get(given, "module A = struct let eq _ _ = true end")
    assert grader.grade(problem_with(given), f"{replaced}\nlet f n = n", FinishReason.STOP).facts.tests_passed == 0
    assert grader.grade(problem_with(given), "let f n = n + 1", FinishReason.STOP).facts.verdict is Verdict.PASSED


@pytest.mark.parametrize("text", ['sprintf "<%d>" x', 'let show x = sprintf "<%d>" x'])
def test_modules_that_the_statement_opens_are_open(grader: Grader, text: str) -> None:
    shown = problem(
        "(** Show. *)\nopen Printf\nlet show (x : int) : string =", 'let () = assert (show 2 = sprintf "<%d>" 2)'
    )
    assert grader.grade(shown, text, FinishReason.STOP).facts.verdict is Verdict.PASSED


def test_a_loop_fails_only_the_named_test_that_contains_it(grader: Grader) -> None:
    named = problem(
        "(** The same. *)\nlet f (n : int) : int =",
        "let test_1 () = assert (f 1 = 1)\nlet test_2 () = assert (f 2 = 2)\nlet test_3 () = assert (f 3 = 3)\n"
        "let () = test_1 (); test_2 (); test_3 ()",
    )
    facts = grader.grade(named, "let rec f n = if n = 2 then f n else n", FinishReason.STOP).facts
    assert [str(outcome) for outcome in facts.asserts] == ["passed", "timed_out", "passed"]

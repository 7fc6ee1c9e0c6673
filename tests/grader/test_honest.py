"""Honest programs of any form pass: a false refusal is as bad as a rewarded attack."""

import json
from pathlib import Path

import pytest

from cluster.types import FinishReason, Verdict
from grader.grade import Grader

from .conftest import QUICK
from .honest_completions import HONEST_TEXTS, PROMPT, TESTS
from .honest_programs import HONEST, TEST_SHAPES
from .problems import TWICE, problem

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_program_passes(grader: Grader, name: str) -> None:
    if name == "pervasives" and grader.toolchain.version.startswith("5"):
        pytest.skip("OCaml 5 has no Pervasives")
    prompt, tests, completion = HONEST[name]
    grade = grader.grade(problem(prompt, tests, name), f"{completion}\n(* END *)", FinishReason.STOP)
    assert grade.facts.verdict is Verdict.PASSED, grade.facts.diagnostics
    assert grade.reward == 1.0


@pytest.mark.parametrize("name", HONEST_TEXTS)
def test_a_correct_answer_passes_in_every_text_form(grader: Grader, name: str) -> None:
    grade = grader.grade(problem(PROMPT, TESTS, name), HONEST_TEXTS[name], FinishReason.STOP)
    assert grade.facts.verdict is Verdict.PASSED, grade.facts.diagnostics
    assert grade.reward >= 0.95


@pytest.mark.parametrize("name", TEST_SHAPES)
def test_the_asserts_of_tests_of_any_form_are_counted(grader: Grader, name: str) -> None:
    tests, num_asserts = TEST_SHAPES[name]
    made = problem("(** Twice a number that is not negative. *)\nlet f (x : int) : int =", tests, name)
    right = grader.grade(made, 'let f x = if x < 0 then invalid_arg "f" else 2 * x', FinishReason.STOP).facts
    assert (right.verdict, right.tests_passed, right.tests_total) == (Verdict.PASSED, num_asserts, num_asserts)
    for wrong in ("let f x = (3 * x) + 1", 'let f _ = failwith "todo"', "let f _ = raise Exit"):
        facts = grader.grade(made, wrong, FinishReason.STOP).facts
        assert (facts.tests_passed, facts.tests_total) == (0, num_asserts)


def test_the_solved_sample_passes_every_assert(grader: Grader) -> None:
    path = SHARED / "solved_sample.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    for line in path.read_text().splitlines():
        row = json.loads(line)
        grade = grader.grade(problem(row["prompt"], row["tests"], row["id"]), row["solution"], FinishReason.STOP)
        assert grade.facts.verdict is Verdict.PASSED, (row["id"], grade.facts.diagnostics)
        assert grade.facts.tests_total == row["n_asserts"]


def test_every_real_problem_grades_a_stub_without_a_machine_error(grader: Grader) -> None:
    path = SHARED / "ocaml_problems.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        facts = grader.grade(
            problem(row["prompt"], row["tests"], row["id"]), '  failwith "todo"', FinishReason.STOP
        ).facts
        assert facts.tests_passed == 0
        assert facts.verdict in {Verdict.RAISED, Verdict.INTERFACE, Verdict.TYPE_ERROR}, (row["id"], facts)


def test_the_tokenizers_own_tokens_end_an_answer() -> None:
    with Grader(QUICK, special_tokens=("<tool_call>", "\u25c1over\u25b7", "[TOOL_CALLS]")) as grader:
        for token in ("<tool_call>", "\u25c1over\u25b7", "[TOOL_CALLS]"):
            text = f'let token = "{token}"\nlet twice x = x + x{token}\nlet twice x = x'
            assert grader.grade(TWICE, text, FinishReason.STOP).facts.verdict is Verdict.PASSED


def test_each_assert_counts_on_its_own(grader: Grader) -> None:
    text = (
        'let twice x =\n  if x = 1 then failwith "no"\n  else if x = 2 then (while true do () done; 0)\n'
        "  else if x = 3 then 7 else x + x"
    )
    facts = grader.grade(TWICE, text, FinishReason.STOP).facts
    assert (facts.tests_passed, facts.tests_total, facts.verdict) == (1, 4, Verdict.TIMEOUT)
    assert "assert 1: raised Failure no" in facts.diagnostics
    assert "assert 2: out of CPU time" in facts.diagnostics
    assert "assert 3: false" in facts.diagnostics


@pytest.mark.parametrize(
    ("text", "verdict", "type_errors", "reward"),
    [
        ("let twice x = x + x (* END *)", Verdict.PASSED, 0, 1.0),
        ("let twice x = x + x", Verdict.PASSED, 0, 0.95),
        ("let twice x = if x < 3 then x + x else 0", Verdict.WRONG, 0, 0.3 + 0.65 * 3 / 4),
        ("let twice x = string_of_int x", Verdict.INTERFACE, 0, 0.25),
        ('let twice x = x + "a"', Verdict.TYPE_ERROR, 1, 0.16),
        ("let twice x = x +\n(* END *)", Verdict.SYNTAX_ERROR, 0, 0.05),
        ("let twice x = exit x (* END *)", Verdict.DENIED, 0, 0.0),
        ("(* END *)", Verdict.NO_CODE, 0, 0.0),
    ],
)
def test_each_verdict_earns_the_reward_of_the_default_profile(
    grader: Grader, text: str, verdict: Verdict, type_errors: int, reward: float
) -> None:
    grade = grader.grade(TWICE, text, FinishReason.STOP)
    assert (grade.facts.verdict, grade.facts.type_errors) == (verdict, type_errors)
    assert grade.reward == pytest.approx(reward)
    assert grade.facts.tests_total == 4


def test_a_missing_rec_is_not_added_to_a_complete_definition(grader: Grader) -> None:
    made = problem("(** Factorial. *)\nlet fact (n : int) : int =", "let () = assert (fact 3 = 6)")
    body = "  if n <= 1 then 1 else n * fact (n - 1)"
    assert grader.grade(made, body, FinishReason.STOP).facts.verdict is Verdict.PASSED
    spelled_out = f"let fact (n : int) : int =\n{body}"
    assert grader.grade(made, spelled_out, FinishReason.STOP).facts.verdict is Verdict.TYPE_ERROR


def test_tests_that_do_not_parse_are_no_syntax_error_of_the_completion(grader: Grader) -> None:
    made = problem("(** One. *)\nlet one (x : int) : int =", "let () = assert (one 1 = (* expected *));")
    facts = grader.grade(made, "let one _ = 1", FinishReason.STOP).facts
    assert (facts.verdict, facts.tests_total, facts.syntax_error) == (Verdict.INTERFACE, 0, False)
    assert "tests do not parse" in facts.diagnostics


def test_the_same_program_gets_the_same_grade_in_any_order(grader: Grader) -> None:
    texts = ["let twice x = x + x", "let twice x = x", "let twice x =", "type t = A let twice x = x ^ x", "exit 0"]
    first = {text: grader.grade(TWICE, text, FinishReason.STOP) for text in texts}
    for text in [*reversed(texts), *texts * 3]:
        again = grader.grade(TWICE, text, FinishReason.STOP)
        assert (again.reward, again.terms) == (first[text].reward, first[text].terms)
        assert (again.facts.verdict, again.facts.diagnostics) == (
            first[text].facts.verdict,
            first[text].facts.diagnostics,
        )


def test_shared_compiled_tests_keep_their_meaning_for_each_completion(grader: Grader) -> None:
    """Completions that define only a value of the same type share the compiled tests."""
    pair = problem(
        "(** Twice the same. *)\nlet pair x =",
        'let () = assert (pair 1 = (1, 1))\nlet () = assert (pair "a" = ("a", "a"))',
    )
    of_pair = {
        "let pair x = (x, x)": Verdict.PASSED,
        "let pair (x : int) = (x, x)": Verdict.INTERFACE,
        "let pair = List.hd [ (fun x -> (x, x)) ]": Verdict.INTERFACE,
        "let pair x = (x, [ x ])": Verdict.INTERFACE,
        "let ( = ) _ _ = false\nlet fst = 1\nlet pair x = (x, x)": Verdict.PASSED,
        "type t = A\nlet pair x = (x, x)": Verdict.PASSED,
        "let pair : 'a. 'a -> 'a * 'a = fun x -> ignore (failwith \"no\"); (x, x)": Verdict.RAISED,
    }
    helped = problem(
        "(** Twice. *)\nlet twice x =", "let () = assert (twice 2 = 4)\nlet () = assert (four = 4)\nlet four = 5"
    )
    of_helped = {
        "let four = 4\nlet twice x = x + x": Verdict.PASSED,
        "let twice x = x + x": Verdict.INTERFACE,
        "let four = 5\nlet twice x = x + x": Verdict.WRONG,
        'let four = "4"\nlet twice x = x + x': Verdict.INTERFACE,
    }
    cases = [(pair, *case) for case in of_pair.items()] + [(helped, *case) for case in of_helped.items()]
    for made, text, verdict in [*cases, *reversed(cases)]:
        facts = grader.grade(made, text, FinishReason.STOP).facts
        assert facts.verdict is verdict, (text, facts.diagnostics)


def test_an_answer_in_several_blocks_is_read_as_one_program(grader: Grader) -> None:
    made = problem("(** Twice a number. *)\nlet twice (n : int) : int =", "let () = assert (twice 2 = 4)")
    answer = (
        "First a helper:\n```ocaml\nlet add a b = a + b\n```\nNow the function:\n"
        "```ocaml\nlet twice n = add n n\n```\nRun it like this:\n```sh\nocaml twice.ml\n```\n"
    )
    facts = grader.grade(made, answer, FinishReason.STOP).facts
    assert (facts.verdict, facts.tests_passed, facts.num_code_lines) == (Verdict.PASSED, 1, 2)


def test_a_second_attempt_is_graded_without_the_first(grader: Grader) -> None:
    made = problem("(** Twice a number. *)\nlet twice (n : int) : int =", "let () = assert (twice 2 = 4)")
    answer = "```ocaml\nlet twice n = n ^ n in\n```\nNo, that is wrong:\n```ocaml\nlet twice n = 2 * n\n```\n"
    assert grader.grade(made, answer, FinishReason.STOP).facts.verdict is Verdict.PASSED


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("let twice x = x + x", Verdict.NO_CODE),
        ("Maybe:\n```ocaml\nlet twice x = x + x\n```\n", Verdict.NO_CODE),
        ("Maybe.\n</think>\nlet twice x = x + x", Verdict.PASSED),
        ("<think>\nlet twice x = x\n</think>\nlet twice x = x + x", Verdict.PASSED),
    ],
)
def test_text_in_a_thought_that_the_prompt_opened_is_not_the_answer(
    grader: Grader, text: str, verdict: Verdict
) -> None:
    facts = grader.grade(TWICE, text, FinishReason.STOP, "<think>").facts
    assert facts.verdict is verdict
    assert facts.quality_flags == () or verdict is Verdict.NO_CODE


def test_errors_after_a_thought_that_the_prompt_opened_have_the_lines_of_the_completion(grader: Grader) -> None:
    text = 'Hm.\n</think>\nlet twice x = x + "a"'
    assert [error.line for error in grader.grade(TWICE, text, FinishReason.STOP, "<think>").facts.errors] == [3]

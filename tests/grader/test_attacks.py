"""Attacks: completions that try to pass asserts without solving the problem, one named attack each."""

import pytest

from cluster.types import FinishReason, Problem, Verdict
from grader.grade import Grader

from .attacks import TEXT_ATTACKS, TWICE_ATTACKS, WORD_ATTACKS
from .problems import SORTED, TWICE, problem
from .shape_attacks import SHAPES
from .thought_attacks import THOUGHT_ATTACKS

ATTACKS = [
    *(pytest.param(TWICE, text, id=name) for name, text in TWICE_ATTACKS.items()),
    *(pytest.param(SORTED, text, id=name) for name, text in WORD_ATTACKS.items()),
    *(pytest.param(TWICE, text, id=name) for name, text in TEXT_ATTACKS.items()),
    *(pytest.param(TWICE, text, id=name) for name, text in THOUGHT_ATTACKS.items()),
    *(
        pytest.param(problem(prompt, tests, shape), text, id=f"{shape}-{name}")
        for shape, (prompt, tests, _, attacks) in SHAPES.items()
        for name, text in attacks.items()
    ),
]


@pytest.mark.parametrize(("problem", "text"), ATTACKS)
def test_an_attack_earns_nothing(grader: Grader, problem: Problem, text: str) -> None:
    grade = grader.grade(problem, text, FinishReason.STOP)
    assert grade.facts.tests_passed == 0
    assert grade.terms.tests == 0
    assert grade.facts.tests_total in (0, problem.tests.count("assert ("))
    assert grade.reward <= 0.35


@pytest.mark.parametrize("shape", SHAPES)
def test_an_attacked_problem_can_be_solved(grader: Grader, shape: str) -> None:
    prompt, tests, answer, _ = SHAPES[shape]
    facts = grader.grade(problem(prompt, tests, shape), answer, FinishReason.STOP).facts
    assert facts.verdict is Verdict.PASSED, facts.diagnostics


COLORS = problem(
    "(** The next color. *)\ntype color = Red | Green | Blue\nlet same a b = a = b\nlet next (c : color) : color =",
    "let () =\n  assert (next Red = Green);\n  assert (next Green = Blue);\n  assert (same (next Blue) Red);\n;;",
)
COLORS_ANSWER = "let next = function Red -> Green | Green -> Blue | Blue -> Red"


@pytest.mark.parametrize(
    "text",
    [
        "type color = ..\ntype color += Red\ntype color += Green = Red | Blue = Red\nlet next _ = Red",
        "type other = ..\ntype other += Red\ntype other += Green = Red | Blue = Red\nlet next _ = Red",
        "exception Red\nexception Green = Red\nexception Blue = Red\nlet next _ = Red",
        "module M = struct exception Red exception Green = Red exception Blue = Red end\ninclude M\nlet next _ = Red",
    ],
)
def test_constructors_of_the_problem_cannot_be_made_equal_to_one_another(grader: Grader, text: str) -> None:
    grade = grader.grade(COLORS, text, FinishReason.STOP)
    assert (grade.facts.verdict, grade.facts.tests_passed) == (Verdict.INTERFACE, 0)
    assert "Red, Green, Blue" in grade.facts.diagnostics


@pytest.mark.parametrize(
    "text",
    [
        "let same _ _ = true\nlet next c = c",
        "type color = Red | Green | Blue\nlet same _ _ = true\nlet next c = c",
        "include struct let same _ _ = true end\nlet next c = c",
    ],
)
def test_a_function_that_the_problem_gives_cannot_be_replaced(grader: Grader, text: str) -> None:
    assert grader.grade(COLORS, text, FinishReason.STOP).facts.tests_passed == 0


@pytest.mark.parametrize(
    "text",
    [
        COLORS_ANSWER,
        f"type color = Red | Green | Blue\n{COLORS_ANSWER}",
        f"type color = Red | Green | Blue\nlet same a b = a = b\n{COLORS_ANSWER}",
        f"let same = ( = )\nexception Yellow\nexception Ochre = Yellow\n{COLORS_ANSWER}",
    ],
)
def test_a_right_answer_may_repeat_the_definitions_of_the_problem(grader: Grader, text: str) -> None:
    assert grader.grade(COLORS, text, FinishReason.STOP).facts.verdict is Verdict.PASSED

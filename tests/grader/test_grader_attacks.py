"""Nothing that a completion can write earns it asserts that an honest reading fails. One named attack each."""

import pytest

from cluster.types import FinishReason, Problem
from grader.grade import Grader

from .made import SORTED, TWICE
from .made_attacks import TEXT_ATTACKS, TWICE_ATTACKS, WORD_ATTACKS

ATTACKS = [
    *(pytest.param(TWICE, text, id=name) for name, text in TWICE_ATTACKS.items()),
    *(pytest.param(SORTED, text, id=name) for name, text in WORD_ATTACKS.items()),
    *(pytest.param(TWICE, text, id=name) for name, text in TEXT_ATTACKS.items()),
]


@pytest.mark.parametrize(("problem", "text"), ATTACKS)
def test_an_attack_is_not_paid(grader: Grader, problem: Problem, text: str) -> None:
    grade = grader.grade(problem, text, FinishReason.STOP)
    assert grade.facts.tests_passed == 0
    assert grade.terms.tests == 0
    assert grade.facts.tests_total in (0, 4)
    assert grade.reward <= 0.35

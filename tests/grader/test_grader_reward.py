"""The seed profile, by hand: 5% END marker, 20% types, 10% compilation, 65% tests."""

from dataclasses import fields, replace

import pytest

from cluster.types import AssertOutcome, ConfigError, Facts, Verdict
from grader.reward import NOTHING, profile_named, reward_terms, total_reward
from grader.settings import SEED_PROFILE, GraderSettings

PROFILE = profile_named(SEED_PROFILE)
NOT_RUN = (AssertOutcome.NOT_RUN,) * 8


def outcomes(passed: int) -> tuple[AssertOutcome, ...]:
    return (AssertOutcome.PASSED,) * passed + (AssertOutcome.FAILED,) * (8 - passed)


PASSED = Facts(
    verdict=Verdict.PASSED,
    asserts=(AssertOutcome.PASSED,) * 8,
    type_errors=0,
    syntax_error=False,
    compiled=True,
    type_checked=True,
    has_end_marker=True,
    hit_length_limit=False,
    num_code_lines=8,
)
TYPE_ERROR = replace(
    PASSED, verdict=Verdict.TYPE_ERROR, asserts=NOT_RUN, type_errors=1, compiled=False, type_checked=False
)


def reward(facts: Facts) -> float:
    terms = reward_terms(facts, PROFILE)
    settings = GraderSettings()
    return total_reward(
        facts, terms, min_code_lines=settings.min_code_lines, runaway_multiplier=settings.runaway_multiplier
    )


def test_the_parts_of_a_perfect_completion_add_up_to_one() -> None:
    terms = reward_terms(PASSED, PROFILE)
    assert (terms.structural, terms.type_check, terms.compile, terms.tests) == (0.05, 0.20, 0.10, 0.65)
    assert reward(PASSED) == 1.0


@pytest.mark.parametrize(("passed", "expected"), [(0, 0.35), (1, 0.43125), (4, 0.675), (7, 0.91875), (8, 1.0)])
def test_tests_pay_by_the_fraction_of_asserts(passed: int, expected: float) -> None:
    verdict = Verdict.PASSED if passed == 8 else Verdict.WRONG
    assert reward(replace(PASSED, asserts=outcomes(passed), verdict=verdict)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("errors", "types"), [(1, 0.15), (2, 0.10), (3, 0.06), (4, 0.03), (5, 0.02), (6, 0.02), (50, 0.02)]
)
def test_type_errors_are_graduated(errors: int, types: float) -> None:
    facts = replace(TYPE_ERROR, type_errors=errors)
    assert reward_terms(facts, PROFILE).type_check == types
    assert reward(facts) == pytest.approx(0.05 + types + 0.01)


def test_a_syntax_error_earns_nothing_for_types_and_compilation() -> None:
    facts = replace(TYPE_ERROR, verdict=Verdict.SYNTAX_ERROR, type_errors=0, syntax_error=True)
    assert reward(facts) == 0.05
    assert reward(replace(facts, has_end_marker=False)) == 0.0


def test_a_program_that_does_not_fit_the_tests_gets_half_of_the_compile_credit() -> None:
    facts = replace(PASSED, verdict=Verdict.INTERFACE, compiled=False, asserts=NOT_RUN)
    assert reward(facts) == pytest.approx(0.05 + 0.20 + 0.05)


def test_tests_pay_only_where_it_compiles() -> None:
    assert reward_terms(replace(PASSED, compiled=False, verdict=Verdict.INTERFACE), PROFILE).tests == 0.0


def test_a_bomb_for_the_compiler_earns_nothing_for_types() -> None:
    facts = replace(TYPE_ERROR, verdict=Verdict.TIMEOUT, type_errors=0)
    assert reward(facts) == pytest.approx(0.05 + 0.01)


@pytest.mark.parametrize("verdict", [Verdict.NO_CODE, Verdict.DENIED])
def test_empty_and_denied_completions_earn_nothing_at_all(verdict: Verdict) -> None:
    assert reward_terms(replace(PASSED, verdict=verdict), PROFILE) == NOTHING
    assert reward(replace(PASSED, verdict=verdict)) == 0.0


def test_a_program_shorter_than_the_minimum_gets_nothing_but_keeps_its_terms() -> None:
    short = replace(PASSED, num_code_lines=7)
    assert reward(short) == 0.0
    assert reward_terms(short, PROFILE).tests == 0.65
    assert total_reward(short, reward_terms(short, PROFILE), min_code_lines=7, runaway_multiplier=0.3) == 1.0


def test_a_runaway_completion_gets_three_tenths() -> None:
    runaway = replace(PASSED, hit_length_limit=True, has_end_marker=False)
    assert reward(runaway) == pytest.approx(0.95 * 0.3)
    assert reward(replace(runaway, has_end_marker=True)) == 1.0
    assert reward(replace(runaway, hit_length_limit=False)) == pytest.approx(0.95)


def test_tests_without_an_assert_pay_nothing() -> None:
    assert reward_terms(replace(PASSED, asserts=()), PROFILE).tests == 0.0


def test_an_unknown_profile_names_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=SEED_PROFILE):
        profile_named("nonsense")


def test_the_maxima_of_a_profile_are_one() -> None:
    assert PROFILE.structural + PROFILE.type_check[0] + PROFILE.compiles + PROFILE.tests == pytest.approx(1.0)
    assert len(fields(PROFILE)) == 6

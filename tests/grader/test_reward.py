"""Rewards of every profile, computed by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigError
from cluster.types import AssertOutcome, Facts, RewardTerms, Verdict
from grader.profiles import DEFAULT_PROFILE, PROFILES, RewardProfile, profile_named
from grader.reward import NOTHING, profile_of, score
from grader.settings import GraderSettings, ThoughtTokenSettings, WeightSettings
from tests.grader.facts_strategies import all_facts

DEFAULT = profile_named(DEFAULT_PROFILE)
NO_END = profile_named("no-end-25-10-65")
BINARY = profile_named("binary")
NOT_RUN = (AssertOutcome.NOT_RUN,) * 8
HELD, FALSE = AssertOutcome.PASSED, AssertOutcome.FAILED


def outcomes(passed: int) -> tuple[AssertOutcome, ...]:
    return (HELD,) * passed + (FALSE,) * (8 - passed)


PASSED = Facts(
    verdict=Verdict.PASSED,
    asserts=(HELD,) * 8,
    type_errors=0,
    syntax_error=False,
    compiled=True,
    type_checked=True,
    has_end_marker=True,
    hit_length_limit=False,
    num_code_lines=8,
    num_code_blocks=1,
)
HALF = replace(PASSED, verdict=Verdict.WRONG, asserts=outcomes(4))
TYPE_ERROR = replace(
    PASSED, verdict=Verdict.TYPE_ERROR, asserts=NOT_RUN, type_errors=1, compiled=False, type_checked=False
)
INTERFACE = replace(PASSED, verdict=Verdict.INTERFACE, compiled=False, asserts=NOT_RUN)
SYNTAX_ERROR = replace(TYPE_ERROR, verdict=Verdict.SYNTAX_ERROR, type_errors=0, syntax_error=True)
BOMB = replace(TYPE_ERROR, verdict=Verdict.TIMEOUT, type_errors=0)


def reward(facts: Facts, profile: RewardProfile = DEFAULT) -> float:
    return score(facts, profile).reward


def terms(facts: Facts, profile: RewardProfile = DEFAULT) -> RewardTerms:
    return score(facts, profile).terms


# The default profile


def test_the_parts_of_a_perfect_completion_add_up_to_one() -> None:
    assert terms(PASSED) == RewardTerms(structural=0.05, type_check=0.20, compile=0.10, tests=0.65)
    assert reward(PASSED) == 1.0


@pytest.mark.parametrize(("passed", "expected"), [(0, 0.35), (1, 0.43125), (4, 0.675), (7, 0.91875), (8, 1.0)])
def test_tests_earn_the_fraction_of_asserts_that_passed(passed: int, expected: float) -> None:
    verdict = Verdict.PASSED if passed == 8 else Verdict.WRONG
    assert reward(replace(PASSED, asserts=outcomes(passed), verdict=verdict)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("errors", "types"), [(1, 0.15), (2, 0.10), (3, 0.06), (4, 0.03), (5, 0.02), (6, 0.02), (50, 0.02)]
)
def test_more_type_errors_earn_less(errors: int, types: float) -> None:
    facts = replace(TYPE_ERROR, type_errors=errors)
    assert terms(facts).type_check == types
    assert reward(facts) == pytest.approx(0.05 + types + 0.01)


def test_a_syntax_error_earns_its_end_marker_and_nothing_else() -> None:
    assert reward(SYNTAX_ERROR) == 0.05
    assert reward(replace(SYNTAX_ERROR, has_end_marker=False)) == 0.0


def test_a_program_that_does_not_fit_the_tests_gets_half_of_the_compile_credit() -> None:
    assert reward(INTERFACE) == pytest.approx(0.05 + 0.20 + 0.05)


def test_tests_earn_nothing_without_compilation() -> None:
    assert terms(replace(INTERFACE, asserts=PASSED.asserts)).tests == 0.0


def test_a_program_that_exhausts_the_compiler_earns_nothing_for_types() -> None:
    assert reward(BOMB) == pytest.approx(0.05 + 0.01)


def test_a_program_shorter_than_the_minimum_gets_nothing_but_keeps_its_terms() -> None:
    short = replace(PASSED, num_code_lines=7)
    assert reward(short) == 0.0
    assert terms(short).tests == 0.65
    assert reward(short, replace(DEFAULT, min_code_lines=7)) == 1.0


def test_a_completion_truncated_without_end_marker_gets_three_tenths() -> None:
    truncated = replace(PASSED, hit_length_limit=True, has_end_marker=False)
    assert reward(truncated) == pytest.approx(0.95 * 0.3)
    assert reward(replace(truncated, has_end_marker=True)) == 1.0
    assert reward(replace(truncated, hit_length_limit=False)) == pytest.approx(0.95)


def test_tests_without_an_assert_earn_nothing() -> None:
    assert terms(replace(PASSED, asserts=())).tests == 0.0


def test_the_default_profile_ignores_style_and_low_quality() -> None:
    facts = replace(PASSED, quality_flags=("repetitive",), num_code_blocks=9, has_trailing_prose=True)
    assert reward(facts) == 1.0


# The profile without END marker


def test_without_end_marker_types_are_worth_a_quarter() -> None:
    assert terms(PASSED, NO_END) == RewardTerms(structural=0.0, type_check=0.25, compile=0.10, tests=0.65)
    assert reward(PASSED, NO_END) == reward(replace(PASSED, has_end_marker=False), NO_END) == 1.0
    assert reward(HALF, NO_END) == pytest.approx(0.25 + 0.10 + 0.325)
    assert reward(INTERFACE, NO_END) == pytest.approx(0.25 + 0.05)
    assert reward(SYNTAX_ERROR, NO_END) == 0.0
    assert reward(BOMB, NO_END) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("errors", "types"),
    [
        (1, 0.20),
        (2, 0.15),
        (3, 0.10),
        (4, 0.05),
        (5, 0.04),
        (6, 0.03),
        (7, 0.025),
        (8, 0.02),
        (9, 0.015),
        (10, 0.01),
        (99, 0.01),
    ],
)
def test_without_end_marker_up_to_ten_type_errors_are_distinguished(errors: int, types: float) -> None:
    assert reward(replace(TYPE_ERROR, type_errors=errors), NO_END) == pytest.approx(types + 0.01)


def test_without_end_marker_truncation_is_not_penalised() -> None:
    assert reward(replace(PASSED, hit_length_limit=True, has_end_marker=False), NO_END) == 1.0


def test_without_end_marker_one_line_is_too_short() -> None:
    assert reward(replace(PASSED, num_code_lines=1), NO_END) == 0.0
    assert reward(replace(PASSED, num_code_lines=2), NO_END) == 1.0


@pytest.mark.parametrize("flags", [("repetitive",), ("mostly_prose", "fence_spam", "stub")])
def test_low_quality_gets_three_tenths_for_any_number_of_flags(flags: tuple[str, ...]) -> None:
    assert reward(replace(HALF, quality_flags=flags), NO_END) == pytest.approx(0.675 * 0.3)
    assert reward(replace(TYPE_ERROR, quality_flags=flags), NO_END) == pytest.approx(0.21 * 0.3)


@pytest.mark.parametrize(
    ("blocks", "prose", "penalty"),
    [(0, False, 0.0), (1, False, 0.0), (2, False, 0.02), (1, True, 0.03), (3, True, 0.07), (9, False, 0.10)],
)
def test_a_verbose_but_correct_answer_loses_a_little(blocks: int, prose: bool, penalty: float) -> None:
    for facts, expected in ((PASSED, 1.0 - penalty), (HALF, 0.675)):
        verbose = replace(facts, num_code_blocks=blocks, has_trailing_prose=prose)
        assert reward(verbose, NO_END) == pytest.approx(expected)


def test_the_style_penalty_comes_before_the_multiplier() -> None:
    facts = replace(PASSED, has_trailing_prose=True, quality_flags=("repetitive",))
    assert reward(facts, NO_END) == pytest.approx(0.97 * 0.3)


def test_a_verbose_solution_earns_more_than_the_best_solution_that_fails() -> None:
    verbose = replace(PASSED, num_code_blocks=9, has_trailing_prose=True)
    almost_passed = replace(PASSED, verdict=Verdict.WRONG, asserts=outcomes(6))
    assert reward(verbose, NO_END) > reward(almost_passed, NO_END)


# The binary profile


def test_binary_rewards_all_asserts_or_nothing() -> None:
    assert reward(PASSED, BINARY) == 1.0
    assert terms(PASSED, BINARY) == RewardTerms(structural=0.0, type_check=0.0, compile=0.0, tests=1.0)
    for facts in (HALF, replace(HALF, asserts=outcomes(7)), INTERFACE, TYPE_ERROR, SYNTAX_ERROR, BOMB):
        assert reward(facts, BINARY) == 0.0


def test_binary_requires_no_lines_and_no_end_marker() -> None:
    facts = replace(PASSED, num_code_lines=1, has_end_marker=False, hit_length_limit=True, quality_flags=("stub",))
    assert reward(facts, BINARY) == 1.0


def test_tests_that_end_early_after_the_last_assert_are_not_passed() -> None:
    facts = replace(PASSED, verdict=Verdict.RAISED, asserts=((HELD,) * 8 + (AssertOutcome.RAISED,)))
    assert reward(facts, BINARY) == 0.0
    assert terms(facts).tests == pytest.approx(0.65 * 8 / 9, abs=1e-6)


# Asserts covered by an example

COVERED = replace(
    PASSED,
    verdict=Verdict.WRONG,
    asserts=(HELD, HELD, HELD, FALSE, HELD, FALSE, FALSE),
    covered_by_example=(True, True, True, False, False, False, False),
)


@pytest.mark.parametrize(
    ("weight", "fraction"),
    [(1.0, 4 / 7), (0.5, (1.5 + 1) / (1.5 + 4)), (0.0, 1 / 4)],
)
def test_an_assert_covered_by_an_example_counts_with_its_weight(weight: float, fraction: float) -> None:
    profile = replace(DEFAULT, shown_assert_weight=weight)
    assert terms(COVERED, profile).tests == pytest.approx(0.65 * fraction, abs=1e-6)
    assert terms(replace(COVERED, asserts=(HELD,) * 7), profile).tests == 0.65


def test_if_all_asserts_are_covered_and_weigh_nothing_tests_earn_nothing() -> None:
    facts = replace(PASSED, covered_by_example=(True,) * 8)
    for profile in (DEFAULT, NO_END, BINARY):
        assert terms(facts, replace(profile, shown_assert_weight=0.0)).tests == 0.0
        assert terms(facts, replace(profile, shown_assert_weight=0.01)).tests == profile.tests


def test_all_or_nothing_requires_the_covered_asserts_too() -> None:
    profile = replace(BINARY, shown_assert_weight=0.0)
    asserts = (FALSE, *(HELD,) * 7)
    facts = replace(PASSED, verdict=Verdict.WRONG, asserts=asserts, covered_by_example=(True, *(False,) * 7))
    assert reward(facts, profile) == 0.0
    assert reward(replace(facts, asserts=PASSED.asserts), profile) == 1.0


def test_an_assert_after_the_inspected_asserts_is_not_covered() -> None:
    profile = replace(DEFAULT, shown_assert_weight=0.0)
    facts = replace(
        PASSED, verdict=Verdict.RAISED, asserts=(HELD, HELD, AssertOutcome.RAISED), covered_by_example=(True, False)
    )
    assert terms(facts, profile).tests == pytest.approx(0.65 / 2)
    assert terms(replace(facts, asserts=(), covered_by_example=(True,)), profile).tests == 0.0


# Properties of every profile


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize("verdict", [Verdict.NO_CODE, Verdict.DENIED])
def test_empty_and_denied_completions_earn_nothing_at_all(profile: RewardProfile, verdict: Verdict) -> None:
    grade = score(replace(PASSED, verdict=verdict), profile)
    assert (grade.terms, grade.reward) == (NOTHING, 0.0)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_the_weights_of_a_profile_add_up_to_one(profile: RewardProfile) -> None:
    assert profile.structural + profile.type_check[0] + profile.compiles + profile.tests == pytest.approx(1.0)
    assert list(profile.type_check) == sorted(profile.type_check, reverse=True)
    assert profile.compiles >= profile.only_type_checks >= profile.only_parses


@given(all_facts(), st.sampled_from(list(PROFILES)), st.floats(0, 1))
def test_a_reward_is_between_zero_and_one(facts: Facts, name: str, weight: float) -> None:
    settings = GraderSettings(reward=name, shown_assert_weight=weight, degenerate_multiplier=weight, min_code_lines=0)
    grade = score(facts, profile_of(settings))
    assert 0.0 <= grade.reward <= 1.0
    assert score(facts, profile_of(settings)) == grade
    if facts.syntax_error:
        assert (grade.terms.type_check, grade.terms.compile) == (0.0, 0.0)


# From settings to a profile


def test_default_settings_do_not_change_the_profile() -> None:
    assert {name: profile_of(GraderSettings(reward=name)) for name in PROFILES} == dict(PROFILES)


def test_weights_express_the_first_phase_of_the_curriculum() -> None:
    weights = WeightSettings(structural=0.10, type_check=0.40, compile=0.30, tests=0.20)
    phase = profile_of(GraderSettings(weights=weights))
    assert phase.type_check == (0.40, 0.30, 0.20, 0.12, 0.06, 0.04)
    assert (phase.compiles, phase.only_type_checks, phase.only_parses) == (0.30, 0.15, 0.03)
    assert reward(PASSED, phase) == 1.0
    assert reward(replace(TYPE_ERROR, type_errors=3), phase) == pytest.approx(0.10 + 0.12 + 0.03)
    assert reward(HALF, phase) == pytest.approx(0.10 + 0.40 + 0.30 + 0.10)


def test_weights_express_the_second_phase_of_the_curriculum() -> None:
    weights = WeightSettings(structural=0.05, type_check=0.25, compile=0.20, tests=0.50)
    phase = profile_of(GraderSettings(weights=weights))
    assert phase.type_check == (0.25, 0.1875, 0.125, 0.075, 0.0375, 0.025)
    assert reward(INTERFACE, phase) == pytest.approx(0.05 + 0.25 + 0.10)


def test_a_weight_that_the_profile_lacks_scales_the_default_table() -> None:
    weights = WeightSettings(structural=0.1, type_check=0.4, compile=0.2, tests=0.3)
    profile = profile_of(GraderSettings(reward="binary", weights=weights))
    assert profile.structural == 0.1
    assert profile.type_check == (0.40, 0.30, 0.20, 0.12, 0.06, 0.04)
    assert (profile.compiles, profile.only_type_checks, profile.only_parses) == (0.20, 0.10, 0.02)
    assert reward(HALF, profile) == pytest.approx(0.7)
    assert reward(PASSED, profile) == 1.0


def test_the_weights_of_the_profile_as_settings_change_nothing() -> None:
    weights = WeightSettings(structural=0.05, type_check=0.20, compile=0.10, tests=0.65)
    assert profile_of(GraderSettings(weights=weights)) == DEFAULT


def test_a_weight_of_zero_removes_its_part() -> None:
    profile = profile_of(GraderSettings(weights=WeightSettings(type_check=0.0, compile=0.0)))
    assert reward(PASSED, profile) == pytest.approx(0.70)
    assert reward(TYPE_ERROR, profile) == 0.05


def test_overrides_win_over_the_profile() -> None:
    settings = GraderSettings(
        min_code_lines=0, runaway_multiplier=0.5, degenerate_multiplier=0.0, shown_assert_weight=0.25
    )
    profile = profile_of(settings)
    assert (profile.min_code_lines, profile.runaway_multiplier) == (0, 0.5)
    assert (profile.degenerate_multiplier, profile.shown_assert_weight) == (0.0, 0.25)


def test_weights_that_add_up_to_more_than_one_are_refused_with_their_keys() -> None:
    with pytest.raises(ConfigError, match=r"weights.structural 0.05 .* weights.tests 0.9 = 1.25"):
        profile_of(GraderSettings(weights=WeightSettings(tests=0.9)))


def test_weights_that_add_up_to_zero_are_refused() -> None:
    with pytest.raises(ConfigError, match="every reward would be 0"):
        profile_of(GraderSettings(reward="binary", weights=WeightSettings(tests=0.0)))


def test_an_unknown_profile_is_refused_with_the_available_profiles() -> None:
    with pytest.raises(ConfigError, match=f"binary, no-end-25-10-65, {DEFAULT_PROFILE}"):
        profile_of(GraderSettings(reward="nonsense"))


@pytest.mark.parametrize(
    ("cap", "price", "num_thought_tokens", "expected"),
    [
        (None, None, 5000, 1.0),
        (None, 0.1, 0, 1.0),
        (None, 0.1, 500, 0.95),
        (None, 0.1, 5000, 0.5),
        (None, 0.1, 50_000, 0.0),
        (1000, None, 1000, 1.0),
        (1000, None, 1001, 0.0),
        (0, None, 1, 0.0),
        (1000, 0.1, 1000, 0.9),
        (1000, 0.1, None, 1.0),  # unknown: regrade and grade refuse it before
    ],
)
def test_thought_tokens_have_a_cap_and_a_price(
    cap: int | None, price: float | None, num_thought_tokens: int | None, expected: float
) -> None:
    profile = profile_of(GraderSettings(thought_tokens=ThoughtTokenSettings(cap=cap, price=price)))
    assert reward(replace(PASSED, num_thought_tokens=num_thought_tokens), profile) == pytest.approx(expected)


@given(all_facts(), st.none() | st.integers(0, 3000), st.floats(0, 2), st.sampled_from(sorted(PROFILES)))
def test_thought_tokens_only_lower_a_reward(facts: Facts, cap: int | None, price: float, name: str) -> None:
    thoughts = ThoughtTokenSettings(cap=cap, price=price)
    priced = profile_of(GraderSettings(reward=name, thought_tokens=thoughts))
    assert 0 <= reward(facts, priced) <= reward(facts, PROFILES[name])
    assert score(facts, priced).terms == score(facts, PROFILES[name]).terms

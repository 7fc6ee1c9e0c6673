"""Facts -> reward. Pure: an old run can be scored again under another profile without running anything.

What every profile agrees on:

- an empty completion (``NO_CODE``) and a denied one (``DENIED``) earn 0, their END marker included;
- a syntax error earns nothing for types and compilation: it must never be worth as much as one type error;
- tests count only where solution and tests together made a program;
- a program shorter than ``min_code_lines`` gets reward 0, its terms are still shown;
- the style penalty comes off the sum of the terms, only where every assert holds; then the multipliers apply, for a run-away
  (the length limit without an END marker) and for a degenerate answer, both where both are true.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from math import fsum
from typing import TypeVar

from cluster.errors import ConfigError
from cluster.types import AssertOutcome, Facts, Grade, RewardTerms, Verdict
from grader.profiles import PROFILES, SEED_PROFILE, RewardProfile, StylePenalty, profile_named
from grader.settings import GraderSettings

_WORTH_NOTHING = frozenset({Verdict.NO_CODE, Verdict.DENIED})
_Number = TypeVar("_Number", int, float)
NOTHING = RewardTerms(structural=0.0, type_check=0.0, compile=0.0, tests=0.0)


def score(facts: Facts, profile: RewardProfile) -> Grade:
    """Facts with the terms and the reward, 0 to 1, that a profile gives for them."""
    terms = _terms(facts, profile)
    return Grade(facts=facts, terms=terms, reward=_after_penalties(facts, terms, profile))


def _terms(facts: Facts, profile: RewardProfile) -> RewardTerms:
    if facts.verdict in _WORTH_NOTHING:
        return NOTHING
    return RewardTerms(
        structural=profile.structural if facts.has_end_marker else 0.0,
        type_check=_type_term(facts, profile),
        compile=_compile_term(facts, profile),
        tests=round(profile.tests * _tests_fraction(facts, profile), 6),
    )


def _tests_fraction(facts: Facts, profile: RewardProfile) -> float:
    """The share of the tests' weight that a completion earns, 0 to 1; 0 where it made no program with the tests.

    An assert that the statement gives away counts ``shown_assert_weight`` in numerator and denominator, any other 1. Where all
    are shown and that weight is 0, nothing is left to count and the tests pay nothing. With ``all_or_nothing`` every assert must
    hold, shown or not.
    """
    if not facts.compiled or (profile.all_or_nothing and not _every_assert_holds(facts)):
        return 0.0
    shown_or_not = zip_longest(facts.covered_by_example[: len(facts.asserts)], facts.asserts, fillvalue=False)
    weighed = [(profile.shown_assert_weight if shown else 1.0, outcome) for shown, outcome in shown_or_not]
    total = fsum(weight for weight, _ in weighed)
    return fsum(weight for weight, outcome in weighed if outcome is AssertOutcome.PASSED) / total if total else 0.0


def _type_term(facts: Facts, profile: RewardProfile) -> float:
    if facts.syntax_error:
        return 0.0
    if facts.type_checked:
        return profile.type_check[0]
    if facts.type_errors == 0:  # the checker itself ran out of time or memory: nothing is known about the types
        return 0.0
    return profile.type_check[min(facts.type_errors, len(profile.type_check) - 1)]


def _compile_term(facts: Facts, profile: RewardProfile) -> float:
    if facts.syntax_error:
        return 0.0
    if facts.compiled:
        return profile.compiles
    return profile.type_checks if facts.type_checked else profile.attempted


def _after_penalties(facts: Facts, terms: RewardTerms, profile: RewardProfile) -> float:
    if facts.num_code_lines < profile.min_code_lines:
        return 0.0
    total = fsum((terms.structural, terms.type_check, terms.compile, terms.tests))
    if profile.style and facts.compiled and _every_assert_holds(facts):
        total -= _style_penalty(facts, profile.style)
    if facts.hit_length_limit and not facts.has_end_marker:
        total *= profile.runaway_multiplier
    if facts.quality_flags:
        total *= profile.degenerate_multiplier
    return min(max(round(total, 6), 0.0), 1.0)


def _style_penalty(facts: Facts, style: StylePenalty) -> float:
    penalty = style.per_extra_block * max(facts.num_code_blocks - 1, 0)
    penalty += style.trailing_prose if facts.has_trailing_prose else 0.0
    return min(penalty, style.at_most)


def _every_assert_holds(facts: Facts) -> bool:
    return facts.tests_passed == facts.tests_total > 0


def profile_of(settings: GraderSettings) -> RewardProfile:
    """The named profile with what the settings say otherwise.

    A weight scales the profile's table, so that two type errors stay worth half of none; where the profile has nothing to
    scale, the seed's table is scaled. Raises ConfigError, naming the keys, for an unknown profile and for weights that add up to
    more than 1 or to nothing.
    """
    profile, weights = profile_named(settings.reward), settings.weights
    seed = PROFILES[SEED_PROFILE]
    compilation = (profile.compiles, profile.type_checks, profile.attempted)
    compiles, type_checks, attempted = _scaled(
        compilation, (seed.compiles, seed.type_checks, seed.attempted), weights.compile
    )
    weighted = replace(
        profile,
        structural=profile.structural if weights.structural is None else weights.structural,
        type_check=_scaled(profile.type_check, seed.type_check, weights.type_check),
        compiles=compiles,
        type_checks=type_checks,
        attempted=attempted,
        tests=profile.tests if weights.tests is None else weights.tests,
    )
    _check_sum(weighted)
    return replace(
        weighted,
        min_code_lines=_chosen(settings.min_code_lines, profile.min_code_lines),
        runaway_multiplier=_chosen(settings.runaway_multiplier, profile.runaway_multiplier),
        degenerate_multiplier=_chosen(settings.degenerate_multiplier, profile.degenerate_multiplier),
        shown_assert_weight=_chosen(settings.shown_assert_weight, profile.shown_assert_weight),
    )


def _chosen(setting: _Number | None, own: _Number) -> _Number:
    return own if setting is None else setting


def _scaled(table: Sequence[float], shape: Sequence[float], weight: float | None) -> tuple[float, ...]:
    """A falling table so that its first entry is ``weight``; ``shape`` stands in for a table of zeros."""
    if weight is None:
        return tuple(table)
    scaled = table if table[0] else shape
    return tuple(round(value / scaled[0] * weight, 9) for value in scaled)


def _check_sum(profile: RewardProfile) -> None:
    parts = {
        "structural": profile.structural,
        "type_check": profile.type_check[0],
        "compile": profile.compiles,
        "tests": profile.tests,
    }
    total = round(fsum(parts.values()), 9)
    added = " + ".join(f"weights.{name} {value:g}" for name, value in parts.items())
    if total > 1:
        raise ConfigError(f"{added} = {total:g}, but a reward is at most 1: lower some of them")
    if total == 0:
        raise ConfigError(f"{added}: nothing would ever be paid")

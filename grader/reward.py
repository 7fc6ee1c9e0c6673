"""Facts -> reward. Pure: an old run can be re-scored under another profile without running anything.

Rules of every profile:

- a completion without code (``NO_CODE``) or with a denied name (``DENIED``) earns 0, even with an END marker;
- a syntax error earns nothing for types and compilation: it must be worth less than any type error;
- tests count only if solution and tests compile together;
- a program shorter than ``min_code_lines`` gets reward 0; its terms are still reported;
- the style penalty is subtracted from the sum of the terms, only if every assert holds; then the multipliers apply, for a
  completion truncated without END marker (at the length limit) and for one with a low-quality flag, or both;
- thought tokens only lower a reward: their price is subtracted last, down to 0, and above their cap the reward is 0.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from math import fsum
from typing import TypeVar

from cluster.errors import ConfigError
from cluster.types import AssertOutcome, Facts, Grade, RewardTerms, Verdict
from grader.profiles import DEFAULT_PROFILE, PROFILES, RewardProfile, StylePenalty, profile_named
from grader.settings import GraderSettings

_UNREWARDED = frozenset({Verdict.NO_CODE, Verdict.DENIED})
_Number = TypeVar("_Number", int, float)
NOTHING = RewardTerms(structural=0.0, type_check=0.0, compile=0.0, tests=0.0)


def score(facts: Facts, profile: RewardProfile) -> Grade:
    """Compute the terms and the reward, 0 to 1, of facts under a profile."""
    terms = _terms(facts, profile)
    return Grade(facts=facts, terms=terms, reward=_after_penalties(facts, terms, profile))


def _terms(facts: Facts, profile: RewardProfile) -> RewardTerms:
    if facts.verdict in _UNREWARDED:
        return NOTHING
    return RewardTerms(
        structural=profile.structural if facts.has_end_marker else 0.0,
        type_check=_type_term(facts, profile),
        compile=_compile_term(facts, profile),
        tests=round(profile.tests * _tests_fraction(facts, profile), 6),
    )


def _tests_fraction(facts: Facts, profile: RewardProfile) -> float:
    """Weighted share of asserts that passed, 0 to 1; 0 if solution and tests did not compile together.

    An assert covered by an example weighs ``shown_assert_weight``, any other 1. If all are covered and that weight is 0, the
    tests earn nothing. With ``all_or_nothing`` every assert must hold, covered or not.
    """
    if not facts.compiled or (profile.all_or_nothing and not _every_assert_holds(facts)):
        return 0.0
    asserts = zip_longest(facts.covered_by_example[: len(facts.asserts)], facts.asserts, fillvalue=False)
    weighted = [(profile.shown_assert_weight if covered else 1.0, outcome) for covered, outcome in asserts]
    total = fsum(weight for weight, _ in weighted)
    return fsum(weight for weight, outcome in weighted if outcome is AssertOutcome.PASSED) / total if total else 0.0


def _type_term(facts: Facts, profile: RewardProfile) -> float:
    if facts.syntax_error:
        return 0.0
    if facts.type_checked:
        return profile.type_check[0]
    if facts.type_errors == 0:  # the type checker ran out of time or memory
        return 0.0
    return profile.type_check[min(facts.type_errors, len(profile.type_check) - 1)]


def _compile_term(facts: Facts, profile: RewardProfile) -> float:
    if facts.syntax_error:
        return 0.0
    if facts.compiled:
        return profile.compiles
    return profile.only_type_checks if facts.type_checked else profile.only_parses


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
    num_thought_tokens = facts.num_thought_tokens or 0
    if profile.thought_token_cap is not None and num_thought_tokens > profile.thought_token_cap:
        return 0.0
    total -= profile.thought_token_price * num_thought_tokens / 1000
    return min(max(round(total, 6), 0.0), 1.0)


def _style_penalty(facts: Facts, style: StylePenalty) -> float:
    penalty = style.per_extra_block * max(facts.num_code_blocks - 1, 0)
    penalty += style.trailing_prose if facts.has_trailing_prose else 0.0
    return min(penalty, style.at_most)


def _every_assert_holds(facts: Facts) -> bool:
    return facts.tests_passed == facts.tests_total > 0


def profile_of(settings: GraderSettings) -> RewardProfile:
    """Return the named profile with the overrides of the settings.

    A weight scales the profile's table, which keeps the ratios between its entries; a table of zeros is replaced by that of
    the default profile. Raises ConfigError for an unknown profile and for weights that add up to 0 or more than 1.
    """
    profile, weights, thoughts = profile_named(settings.reward), settings.weights, settings.thought_tokens
    default = PROFILES[DEFAULT_PROFILE]
    compilation = (profile.compiles, profile.only_type_checks, profile.only_parses)
    compiles, only_type_checks, only_parses = _scaled(
        compilation, (default.compiles, default.only_type_checks, default.only_parses), weights.compile
    )
    weighted = replace(
        profile,
        structural=profile.structural if weights.structural is None else weights.structural,
        type_check=_scaled(profile.type_check, default.type_check, weights.type_check),
        compiles=compiles,
        only_type_checks=only_type_checks,
        only_parses=only_parses,
        tests=profile.tests if weights.tests is None else weights.tests,
    )
    _check_sum(weighted)
    return replace(
        weighted,
        min_code_lines=_setting_or(settings.min_code_lines, profile.min_code_lines),
        runaway_multiplier=_setting_or(settings.runaway_multiplier, profile.runaway_multiplier),
        degenerate_multiplier=_setting_or(settings.degenerate_multiplier, profile.degenerate_multiplier),
        shown_assert_weight=_setting_or(settings.shown_assert_weight, profile.shown_assert_weight),
        thought_token_cap=profile.thought_token_cap if thoughts.cap is None else thoughts.cap,
        thought_token_price=_setting_or(thoughts.price, profile.thought_token_price),
    )


def _setting_or(setting: _Number | None, default: _Number) -> _Number:
    return default if setting is None else setting


def _scaled(table: Sequence[float], shape: Sequence[float], weight: float | None) -> tuple[float, ...]:
    """Scale a falling table so that its first entry is ``weight``; ``shape`` replaces a table of zeros."""
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
        raise ConfigError(f"{added} = {total:g}, but the sum must be at most 1: lower some of them")
    if total == 0:
        raise ConfigError(f"{added} = 0: every reward would be 0; raise one of them")

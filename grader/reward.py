"""Facts -> reward. Pure: an old run can be scored again under another profile without running anything.

What every profile agrees on:

- an empty completion (``NO_CODE``) and a denied one (``DENIED``) earn 0, their END marker included;
- a program shorter than ``min_code_lines`` gets reward 0, its terms are still shown;
- a completion that hit the length limit without an END marker gets its reward times ``runaway_multiplier``;
- a syntax error earns nothing for types and compilation: it must never be worth as much as one type error;
- tests count only where solution and tests together made a program.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum
from types import MappingProxyType

from cluster.types import ConfigError, Facts, RewardTerms, Verdict
from grader.settings import SEED_PROFILE


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardProfile:
    """The weights of a reward; together the maxima are 1."""

    structural: float  # for an END marker
    type_check: tuple[float, ...]  # by number of type errors: none, 1, 2, ...; the last also for more
    compiles: float  # solution and tests made a program
    type_checks: float  # the solution type-checks on its own, but does not fit the tests
    attempted: float  # it parses
    tests: float  # times the fraction of asserts passed


# The seed analysis of 2025-12-10: 5% END marker, 20% types by error count, 10% compilation, 65% tests.
PROFILES: Mapping[str, RewardProfile] = MappingProxyType(
    {
        SEED_PROFILE: RewardProfile(
            structural=0.05,
            type_check=(0.20, 0.15, 0.10, 0.06, 0.03, 0.02),
            compiles=0.10,
            type_checks=0.05,
            attempted=0.01,
            tests=0.65,
        ),
    }
)

_WORTH_NOTHING = frozenset({Verdict.NO_CODE, Verdict.DENIED})
NOTHING = RewardTerms(structural=0.0, type_check=0.0, compile=0.0, tests=0.0)


def profile_named(name: str) -> RewardProfile:
    """The profile of that name; ConfigError where there is none."""
    if name not in PROFILES:
        raise ConfigError(f"there is no reward profile {name!r}; there are: {', '.join(sorted(PROFILES))}")
    return PROFILES[name]


def reward_terms(facts: Facts, profile: RewardProfile) -> RewardTerms:
    """The parts of the reward, before penalties."""
    if facts.verdict in _WORTH_NOTHING:
        return NOTHING
    fraction = facts.tests_passed / facts.tests_total if facts.tests_total else 0.0
    return RewardTerms(
        structural=profile.structural if facts.has_end_marker else 0.0,
        type_check=_type_term(facts, profile),
        compile=_compile_term(facts, profile),
        tests=round(profile.tests * fraction, 6) if facts.compiled else 0.0,
    )


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


def total_reward(facts: Facts, terms: RewardTerms, *, min_code_lines: int, runaway_multiplier: float) -> float:
    """The sum of the terms after penalties, between 0 and 1."""
    if facts.num_code_lines < min_code_lines:
        return 0.0
    total = fsum((terms.structural, terms.type_check, terms.compile, terms.tests))
    if facts.hit_length_limit and not facts.has_end_marker:
        total *= runaway_multiplier
    return round(total, 6)

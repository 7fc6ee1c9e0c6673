"""Reward profiles: the named sets of weights that turn facts into a reward. Imports little, since ``--help`` lists them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cluster.errors import ConfigError

DEFAULT_PROFILE = "seed-5-20-10-65"


@dataclass(frozen=True, slots=True, kw_only=True)
class StylePenalty:
    """Deductions from a solution that passes all its tests but has text around its code."""

    per_extra_block: float  # for each fenced block beyond the first
    trailing_prose: float  # for text after the code
    at_most: float  # both together


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardProfile:
    """The value of each fact. The largest weights add up to at most 1; multipliers are 0 to 1."""

    meaning: str  # one line for --help
    structural: float  # for an END marker
    type_check: tuple[float, ...]  # by number of type errors: none, 1, 2, ...; the last also for more
    compiles: float  # solution and tests made a program
    type_checks: float  # the solution type-checks on its own, but does not fit the tests
    attempted: float  # it parses
    tests: float  # times the fraction of asserts that hold
    all_or_nothing: bool = False  # tests earn something only if every assert holds
    min_code_lines: int = 0  # a shorter program gets reward 0
    runaway_multiplier: float = 1.0  # if truncated at the length limit without an END marker
    degenerate_multiplier: float = 1.0  # if the completion has a low-quality flag
    style: StylePenalty | None = None
    shown_assert_weight: float = 1.0  # of an assert covered by an example; any other weighs 1


# The baseline analysis A of 2025-12-10: 5% END marker, 20% types by error count, 10% compilation, 65% tests. The phases of its
# curriculum (10/40/30/20, then 5/25/20/50) are this profile with other weights.
PROFILES: Mapping[str, RewardProfile] = MappingProxyType(
    {
        DEFAULT_PROFILE: RewardProfile(
            meaning="5% END marker, 20% types, 10% compilation, 65% tests; at least 8 lines; 0.3 if truncated without END",
            structural=0.05,
            type_check=(0.20, 0.15, 0.10, 0.06, 0.03, 0.02),
            compiles=0.10,
            type_checks=0.05,
            attempted=0.01,
            tests=0.65,
            min_code_lines=8,
            runaway_multiplier=0.3,
        ),
        "no-end-25-10-65": RewardProfile(
            meaning="no END marker: 25% types, 10% compilation, 65% tests; 0.3 for low quality; a style penalty",
            structural=0.0,
            type_check=(0.25, 0.20, 0.15, 0.10, 0.05, 0.04, 0.03, 0.025, 0.02, 0.015, 0.01),
            compiles=0.10,
            type_checks=0.05,
            attempted=0.01,
            tests=0.65,
            min_code_lines=2,
            degenerate_multiplier=0.3,
            style=StylePenalty(per_extra_block=0.02, trailing_prose=0.03, at_most=0.10),
        ),
        "binary": RewardProfile(
            meaning="1 if every assert holds, else 0",
            structural=0.0,
            type_check=(0.0,),
            compiles=0.0,
            type_checks=0.0,
            attempted=0.0,
            tests=1.0,
            all_or_nothing=True,
        ),
    }
)


def profile_named(name: str) -> RewardProfile:
    """Return a profile by name; raises ConfigError for an unknown one."""
    if name not in PROFILES:
        raise ConfigError(f"there is no reward profile {name!r}; there are: {', '.join(sorted(PROFILES))}")
    return PROFILES[name]

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
    at_most: float  # limit of the sum of both


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardProfile:
    """Part of the reward that each fact earns. The maxima of the four terms add up to at most 1; multipliers are 0 to 1."""

    meaning: str  # one line for --help
    structural: float  # for an END marker
    type_check: tuple[float, ...]  # entry n is for n type errors; the last entry also for more
    compiles: float  # if solution and tests compile together
    only_type_checks: float  # if only the solution type-checks, without the tests
    only_parses: float  # if the solution parses, but does not type-check
    tests: float  # multiplied by the weighted fraction of asserts that hold
    all_or_nothing: bool = False  # tests earn something only if every assert holds
    min_code_lines: int = 0  # a shorter program gets reward 0
    runaway_multiplier: float = 1.0  # if truncated at the length limit without an END marker
    degenerate_multiplier: float = 1.0  # if the completion has a low-quality flag
    thought_token_cap: int | None = None  # a completion with more thought tokens gets reward 0
    thought_token_price: float = 0.0  # subtracted for each 1,000 thought tokens; the reward is at least 0
    style: StylePenalty | None = None
    shown_assert_weight: float = (
        1.0  # weight of an assert that an example in the statement covers; other asserts have weight 1
    )

    @property
    def depends_on_thoughts(self) -> bool:
        """True if the number of thought tokens changes rewards."""
        return self.thought_token_cap is not None or self.thought_token_price > 0


# The default is the reward of the baseline analysis A of 2025-12-10: 5% END marker, 20% types by error count, 10% compilation,
# 65% tests. The two earlier phases of its curriculum have other weights: 10/40/30/20, then 5/25/20/50.
PROFILES: Mapping[str, RewardProfile] = MappingProxyType(
    {
        DEFAULT_PROFILE: RewardProfile(
            meaning="5% END marker, 20% types, 10% compilation, 65% tests; at least 8 lines; 0.3 if truncated without END",
            structural=0.05,
            type_check=(0.20, 0.15, 0.10, 0.06, 0.03, 0.02),
            compiles=0.10,
            only_type_checks=0.05,
            only_parses=0.01,
            tests=0.65,
            min_code_lines=8,
            runaway_multiplier=0.3,
        ),
        "no-end-25-10-65": RewardProfile(
            meaning="no END marker: 25% types, 10% compilation, 65% tests; 0.3 for low quality; a style penalty",
            structural=0.0,
            type_check=(0.25, 0.20, 0.15, 0.10, 0.05, 0.04, 0.03, 0.025, 0.02, 0.015, 0.01),
            compiles=0.10,
            only_type_checks=0.05,
            only_parses=0.01,
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
            only_type_checks=0.0,
            only_parses=0.0,
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

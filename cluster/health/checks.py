"""The table of health rules, and their results for a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cluster.config.config import LENGTH
from cluster.health import rules, sample_rules, trend_rules
from cluster.health.history import History
from cluster.health.rules import FIRST, OCAMLER, SECOND, Assessment, Health, Rule

RULES = (
    Rule(
        id="numbers",
        measures="loss, gradient norm, reward and entropy are numbers",
        threshold="stop if one is not, or the learner refused a step for it",
        source="arithmetic",
        check=rules.numbers,
    ),
    Rule(
        id="mode_collapse",
        measures="frac_zero_std without the groups that pass as a whole",
        threshold="below 0.50 at the start, below 0.10 from epoch 0.3 on; stop above 0.30 at epoch 1.0",
        source=f'{FIRST}: "frac_zero_std < 0.10", "drops from 0.50 -> 0.10", "Stop if at Epoch 1.0 [...] still > 0.30"',
        check=rules.mode_collapse,
    ),
    Rule(
        id="filibuster",
        measures="frac_truncated",
        threshold="below 0.80; stop at 0.99 after 100 steps",
        source=f'{OCAMLER}, doc/fix-filibuster-training.md: "Clipped ratio drops from 1.0 to <0.8", first 100 steps',
        check=sample_rules.filibuster,
    ),
    Rule(
        id="reward_level",
        measures="reward",
        threshold="above 0.05 at the start, 0.15 at epoch 0.3, 0.20 at 0.5, 0.35 at 1.0; stop below 0.15 at epoch 1.0",
        source=f'{FIRST}: "Rewards: 0.05 -> 0.15", "At Epoch 0.5 > 0.20", "At Epoch 1.0 > 0.35", "Stop [...] < 0.15"',
        check=rules.reward_level,
    ),
    Rule(
        id="passes",
        measures="pass_rate",
        threshold="from epoch 0.5 on above 0.05, from 1.0 on above 0.10; stop if nothing passes at epoch 1.0",
        source=f'{FIRST}: "First test passes appear (5-10%)", "Regular test passes (10-20%)", "No test passes observed"',
        check=rules.passes,
    ),
    Rule(
        id="kl_dominates",
        measures="loss and reward, if there is a KL term",
        threshold="not both falling",
        source=f'{SECOND}: "Loss is decreasing (good), but average reward is declining (bad)", "KL Penalty Too High"',
        check=trend_rules.kl_dominates,
    ),
    Rule(
        id="reward_trend",
        measures="reward, the last epoch or steps against those before",
        threshold="not falling; from epoch 1.0 on not flat below 0.35",
        source=f'{SECOND}: "Average Reward Declining (Most Critical)"; {FIRST}: "Reward trend is flat or decreasing"',
        check=trend_rules.reward_trend,
    ),
    Rule(
        id="best_of_n_gap",
        measures="best_of_n - reward",
        threshold="below 0.20, or not widening",
        source=f'{SECOND}: "Best-of-N vs Average Gap Widening", "Gap [...] narrows (< 0.20)"',
        check=trend_rules.best_of_n_gap,
    ),
    Rule(
        id="reward_spread",
        measures="reward_std / reward",
        threshold="below 0.50; below 0.30 is healthy",
        source=f'{FIRST}: "Reward (std) [...] < 50% of mean", "Healthy range: < 0.30"',
        check=rules.reward_spread,
    ),
    Rule(
        id="entropy",
        measures="entropy, mean and nine of ten steps",
        threshold="0.10 to 0.25 nats",
        source=f'{FIRST}: "Healthy range: 0.10-0.20", "should stabilize around 0.15-0.25"; of Qwen2.5-Coder-1.5B',
        check=rules.entropy,
    ),
    Rule(
        id="gradient",
        measures="grad_norm, median",
        threshold="0.01 to 0.5; stop above 10",
        source=f'{FIRST}: "Gradient Norm [...] 0.01 - 0.5"; {OCAMLER}: "Gradient norm > 10.0 (explosion) -> STOP"',
        check=rules.gradient,
    ),
    Rule(
        id="one_reward",
        measures="top_reward_share",
        threshold="below 0.50; stop above 0.70 in five steps if it has grown to that",
        source=f'{OCAMLER}, doc/mode-collapse-epoch-0.04-analysis.md: "no single reward value > 50%", ">70% [...] for 5 steps"',
        check=sample_rules.one_reward,
    ),
    Rule(
        id="one_program",
        measures="top_program_share",
        threshold="as one_reward",
        source="the thresholds of one_reward, for programs",
        check=sample_rules.one_program,
    ),
    Rule(
        id="gibberish",
        measures="verdict_no_code + verdict_syntax_error",
        threshold="below 0.95; stop above at epoch 1.0",
        source=f'{FIRST}: "Stop if at Epoch 1.0 [...] Completions are gibberish"; the share is Caravan\'s',
        check=sample_rules.gibberish,
    ),
    Rule(
        id="solved_groups",
        measures="frac_zero_std_solved",
        threshold="below 0.10",
        source=f'{FIRST}: "frac_zero_std [...] Healthy range: < 0.10", of groups that pass as a whole',
        check=rules.solved_groups,
    ),
    Rule(
        id="mismatch",
        measures="weight-sync gap; in synchronous runs sampling/sampling_logp_difference/mean",
        threshold="below ln 1.05 = 0.049 nats per token",
        source="NVIDIA NeMo RL, docs/adding-new-models.md: error exp(|difference|) of at most 1.05",
        check=sample_rules.mismatch,
    ),
)
"""Rules in the order in which results are shown and mitigations are tried."""

METRICS = (
    "step",
    "epoch",
    "loss",
    "grad_norm",
    "entropy",
    "reward",
    "reward_std",
    "best_of_n_gap",
    "frac_zero_std",
    "frac_zero_std_sampled",
    "frac_zero_std_solved",
    "distinct_share_renamed",
    "pass_rate",
    "frac_truncated",
    "top_reward_share",
    "top_program_share",
    "verdict_no_code",
    "verdict_syntax_error",
    "num_groups",
    "max_staleness",
    "sampling/sampling_logp_difference/mean",
)
"""Metrics of a row of metrics.jsonl that the rules use."""

_ORDER = (Health.NO_DATA, Health.OK, Health.WARN, Health.STOP)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """Result of one rule for a run."""

    rule: Rule
    assessment: Assessment

    @property
    def health(self) -> Health:
        """Health by this rule."""
        return self.assessment.health

    @property
    def is_alert(self) -> bool:
        """True if the rule warns or asks to stop."""
        return self.health in (Health.WARN, Health.STOP)

    def as_row(self) -> dict[str, Any]:
        """Return the result for JSON."""
        rule, assessment = self.rule, self.assessment
        return {
            "rule": rule.id,
            "health": str(assessment.health),
            "evidence": assessment.evidence,
            "action": assessment.action,
            "measures": rule.measures,
            "threshold": rule.threshold,
            "source": rule.source,
        }


def check_run(history: History) -> list[CheckResult]:
    """Return the result of every rule, in the order of RULES."""
    return [CheckResult(rule=rule, assessment=rule.check(history)) for rule in RULES]


def worst(results: Sequence[CheckResult]) -> Health:
    """Return the worst health of all results; NO_DATA if the reward level cannot be checked yet."""
    found = max((result.health for result in results), key=_ORDER.index, default=Health.NO_DATA)
    assessed = {result.rule.id for result in results if result.health is not Health.NO_DATA}
    return Health.NO_DATA if found is Health.OK and "reward_level" not in assessed else found


def steps_of_changes(phases: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the steps after which settings changed, from rows of phases.jsonl, without changes of the run length."""
    return [int(row["step"]) for row in phases if row["set"].keys() - set(LENGTH)]


def last_change(phases: Sequence[Mapping[str, Any]]) -> int:
    """Return the step after which settings last changed, 0 if they never did.

    A ramp changes a setting at every step; it counts as one change at its start.
    """
    steps = steps_of_changes(phases)
    return max((now for before, now in pairwise([-1, *steps]) if now - before > 1), default=0)

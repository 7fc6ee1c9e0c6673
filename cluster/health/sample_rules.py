"""Health rules about completions: truncation, identical answers, unparsable text, and the sampler/learner mismatch."""

import math
import statistics

from cluster.health.advice import PLAN_B, scaled
from cluster.health.history import History
from cluster.health.rules import NO_DATA, STEPS_TO_SHOW, Assessment, Health, assessed, is_due

MANY_TRUNCATED, ALL_TRUNCATED = 0.80, 0.99
DOMINANT, DOMINANT_STOP = 0.50, 0.70
UNPARSED = 0.95
MISMATCH = math.log(1.05)


def filibuster(history: History) -> Assessment:
    """Check the share of completions that hit the length limit."""
    share = history.level("frac_truncated")
    if share is None:
        return NO_DATA
    has_had_time = bool(history.steps) and history.steps[-1]["step"] >= STEPS_TO_SHOW
    health = Health.STOP if share >= ALL_TRUNCATED and has_had_time else Health.WARN
    return assessed(
        health if share >= MANY_TRUNCATED else Health.OK,
        f"{share:.0%} of completions hit the length limit",
        f"lower their reward (grader.runaway_multiplier=0), raise {scaled(history, 'rollout.group_size', 1.5)} and, if "
        f"correct answers are truncated, {scaled(history, 'rollout.max_completion_tokens', 1.2)}",
    )


def one_reward(history: History) -> Assessment:
    """Check that no single reward dominates, except the reward for passing."""
    return _dominance(history, "top_reward_share", "of completions earn the same reward without passing")


def one_program(history: History) -> Assessment:
    """Check that no single program, up to renaming, dominates as the answer to different problems."""
    return _dominance(
        history, "top_program_share", "of completions are one program for different problems, and do not pass"
    )


def gibberish(history: History) -> Assessment:
    """Check the share of completions that do not parse."""
    shares = [history.level(f"verdict_{verdict}") for verdict in ("no_code", "syntax_error")]
    if shares[0] is None or shares[1] is None:
        return NO_DATA
    unparsed = shares[0] + shares[1]
    health = Health.STOP if is_due(history) else Health.WARN
    return assessed(
        health if unparsed > UNPARSED else Health.OK,
        f"{unparsed:.0%} of completions do not parse",
        f"read reward_logs/completions.jsonl; teach the language first (caravan sft). {PLAN_B}",
    )


def mismatch(history: History) -> Assessment:
    """Check that samplers and learner compute the same log-probabilities."""
    gaps = list(history.weight_sync_gaps)
    rows = history.level_steps("sampling/sampling_logp_difference/mean")
    if (
        not gaps and rows and all(row.get("max_staleness", 1.0) == 0 for row in rows)
    ):  # else the policies differ by design
        gaps = [row["sampling/sampling_logp_difference/mean"] for row in rows]
    if not gaps:
        return NO_DATA
    gap = statistics.median(gaps)
    return assessed(
        Health.WARN if gap > MISMATCH else Health.OK,
        f"{gap:.2g} nats per token under one policy",
        "let samplers and learner compute in one precision (rollout.dtype, learner.dtype), or set "
        "learner.vllm_importance_sampling_correction=true",
    )


def _dominance(history: History, name: str, what: str) -> Assessment:
    share, first = history.level(name), history.first_level(name)
    if share is None:
        return NO_DATA
    latest = [row[name] for row in history.level_steps(name)[-5:]]
    # A weak model may start with a high share. Only growth shows that the policy learned it.
    has_grown = first is not None and share > first + 0.1 and min(latest, default=0.0) > DOMINANT_STOP
    grew = "" if first is None else f" ({first:.0%} in the first steps)"
    return assessed(
        Health.STOP if has_grown else Health.WARN if share > DOMINANT else Health.OK,
        f"{share:.0%} {what}{grew}",
        "read them (caravan report lists reward hacking suspects), and change the reward that they exploit (grader.*, caravan "
        "regrade)",
    )

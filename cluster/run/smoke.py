"""The smoke run of ``caravan check``: one step of ``caravan train`` with the run's own settings, in a temporary folder.

Engines, graders and learner start as in the run itself. One group of short completions is sampled, graded and learned; the new
policy is published, verified and saved.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from cluster.config.config import CHANGES, Config, assign, validate
from cluster.errors import CaravanError
from cluster.ledger.run_folder import RunFolder
from cluster.placement.check.checks import Check, Level
from cluster.run.interruption import INTERRUPTED
from cluster.run.session import run_to_end
from cluster.run.train import train

MAX_TOKENS = 64
"""Maximum length of the completions. The engines start with the run's own maximum."""

MAX_WITHOUT_SIGNAL = 4
"""Maximum number of groups that are replaced because all their rewards are equal, which would not change the adapter."""

WANTED = "sampled, graded, learned, published, verified, saved"


def smoke_config(config: Config, folder: Path) -> Config:
    """The configuration of the smoke run; raises ConfigError if the run's configuration has no such variant."""
    tree = config.model_dump(mode="json", exclude=CHANGES, exclude_unset=True)
    settings: dict[str, Any] = {
        "run.folder": str(folder),
        "run.name": "smoke",
        "run.tracker": "none",
        "data.drop_unpassable": False,  # the audit of all problems takes minutes
        "loop.groups_per_step": 1,
        "loop.max_steps": 1,
        "loop.epochs": None,
        "loop.oversampling": 1.0,
        "loop.drop_groups_without_signal": True,
        "loop.max_filtered_per_step": MAX_WITHOUT_SIGNAL,
        "loop.max_truncated_share": 1.0,
        "loop.min_mean_reward": 0.0,
        "loop.max_mean_reward": 1.0,
        "learner.lr_scheduler_type": "constant",
        "learner.lr_scheduler_kwargs": None,
        "learner.warmup_steps": 0,
        "evaluation.num_problems": 0,
        "evaluation.at_checkpoints": False,
        "health.on_unhealthy": "warn",
    }
    for key, value in settings.items():
        assign(tree, key, value)
    num_tokens = min(MAX_TOKENS, config.rollout.max_completion_tokens)
    tree["schedule"] = [{"from_step": 0, "set": {"rollout.max_completion_tokens": num_tokens}}]
    return validate(tree)


def smoke_check(config: Config) -> Check | None:
    """Train one step as a check; None if it is interrupted. Nothing of it is kept."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="caravan-check-") as folder:
        try:
            short = smoke_config(config, Path(folder))
            code = run_to_end(lambda view: train(short, view))
        except CaravanError as error:
            return _check(Level.FAIL, "failed", str(error))
        seconds = time.monotonic() - began
        if code == INTERRUPTED:
            return None
        if code:
            return _check(Level.FAIL, f"ended with exit code {code}", "see the lines above")
        return _result(RunFolder(Path(folder) / "smoke"), seconds)


def _result(folder: RunFolder, seconds: float) -> Check:
    """The numbers of the finished smoke run."""
    step, publish = folder.rows(folder.metrics)[-1], folder.rows(folder.publishes)[-1]
    gap = publish["canary_gap_max"]
    found = (
        f"in {seconds:.0f} s: {step['num_completions']:.0f} completions, reward {step['reward']:.2f}, gradient norm "
        f"{step['grad_norm']:.2g}, weight-sync gap {'not measured' if gap is None else f'{gap:.1e} nats'}"
    )
    if step["grad_norm"]:
        return _check(Level.OK, found, "")
    return _check(
        Level.WARN,
        found,
        "all completions had the same reward, so the published policy equals the base model: the run may start like "
        "this with a model that solves none of the problems (`caravan eval --base-check`)",
    )


def _check(level: Level, found: str, advice: str) -> Check:
    return Check(place="run", name="smoke run", found=found, wanted=WANTED, level=level, advice=advice)

"""History of a run from its directory, running or finished, or of another trainer's run from its learning.log."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.errors import RunFolderError
from cluster.health.checks import last_change
from cluster.health.history import LEVEL_STEPS, History, epochs_of
from cluster.ledger.jsonl import whole_rows
from cluster.ledger.learning_log import read_learning_log
from cluster.ledger.run_folder import RunFolder
from learner.training.divergence import FOLDER as DIVERGED

SETTINGS = (
    "learner.kl_coefficient",
    "learner.learning_rate",
    "learner.reward_weight",
    "rollout.group_size",
    "rollout.max_completion_tokens",
    "rollout.temperature",
)
"""Settings that rules and mitigations use."""


def history_of(run: Path) -> History:
    """Return the history in a run directory; raises RunFolderError if there is none.

    Without metrics.jsonl, the history is read from a learning.log in the analyses' format.
    """
    folder = RunFolder(run)
    if not folder.metrics.is_file() and not folder.learning_log.is_file():
        below = sorted(path.parent for path in run.glob(f"*/{folder.metrics.name}"))
        hint = f"; did you mean {' or '.join(map(str, below[:3]))}?" if below else ""
        raise RunFolderError(
            f"{run} holds neither {folder.metrics.name} nor {folder.learning_log.name}: no run started there{hint}"
        )
    steps = list(whole_rows(folder.metrics)) or list(_logged(folder.learning_log))
    phases = list(whole_rows(folder.phases))
    settings = folder.settings(*SETTINGS) | {
        key: value for row in phases for key, value in row["set"].items() if key in SETTINGS
    }
    return History(
        steps=steps,
        epochs=epochs_of(steps),
        settings=settings,
        changed_at=last_change(phases),
        weight_sync_gaps=weight_sync_gaps(list(whole_rows(folder.publishes))),
        diverged_at=_diverged_at(folder, steps),
    )


def weight_sync_gaps(publishes: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the largest weight-sync gap of each of the latest publishes, nats per token."""
    return [row["canary_gap_max"] for row in publishes[-LEVEL_STEPS:] if row.get("canary_gap_max") is not None]


def _logged(path: Path) -> Iterator[dict[str, float]]:
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            yield from read_learning_log(file)


def _diverged_at(folder: RunFolder, steps: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the diverged step that the learner refused; None if the run has taken that step since."""
    done = int(steps[-1]["step"]) if steps else 0
    refused = [int(path.stem.removeprefix("step-")) for path in (folder.path / DIVERGED).glob("step-*.parquet")]
    return max((step for step in refused if step > done), default=None)

"""Metrics of the two training analyses, as the analyses print them."""

from pathlib import Path

from cluster.health.history import History, Window
from cluster.ledger.learning_log import read_learning_log

# Analysis of epoch 0.28, "Sample Log Metrics": Qwen2.5-Coder-1.5B-Instruct, 4 prompts x 6 completions a step, temperature 0.9.
FIRST_LOG = Path(__file__).with_name("first_analysis.log").read_text(encoding="utf-8")

# Analysis of epochs 6 and 7, "Key Metrics Comparison", and the configuration that it names.
EPOCH_6 = {"epoch": 6.0, "reward": 0.2537, "best_of_n": 0.5229, "loss": 0.1735, "reward_variance": 0.0765}
EPOCH_7 = {"epoch": 7.0, "reward": 0.2401, "best_of_n": 0.5276, "loss": 0.1605, "reward_variance": 0.0704}
SECOND_SETTINGS = {
    "learner.kl_coefficient": 0.1,
    "learner.learning_rate": 5e-6,
    "learner.reward_weight": 1.0,
    "rollout.temperature": 1.1,
}


def first() -> History:
    settings = {"rollout.temperature": 0.9, "rollout.group_size": 6, "learner.learning_rate": 5e-6}
    return History(steps=list(read_learning_log(FIRST_LOG.splitlines())), settings=settings)


def epoch(metrics: dict[str, float]) -> Window:
    gap = metrics["best_of_n"] - metrics["reward"]
    return Window(name=f"epoch {metrics['epoch']:g}", means={**metrics, "best_of_n_gap": gap})


def second() -> History:
    return History(epochs=[epoch(EPOCH_6), epoch(EPOCH_7)], settings=SECOND_SETTINGS)

from cluster.health.advice import learn_faster, raise_diversity
from cluster.health.history import History

SETTINGS = {"rollout.group_size": 4, "rollout.temperature": 1.0, "learner.learning_rate": 1e-4}


def steps(entropy: float) -> list[dict[str, float]]:
    return [{"step": float(step), "epoch": step / 100, "entropy": entropy} for step in range(1, 31)]


def test_advice_starts_from_the_settings_of_the_run() -> None:
    history = History(steps=steps(0.05), settings=SETTINGS)
    assert raise_diversity(history) == "raise rollout.group_size (4 -> 6) and rollout.temperature (1 -> 1.2)"
    assert "learner.learning_rate (0.0001 -> 0.00016)" in learn_faster(history)
    assert "rollout.max_completion_tokens x 1.2" in learn_faster(history)  # unknown


def test_the_advice_does_not_raise_the_temperature_if_entropy_is_high() -> None:
    assert "temperature" not in raise_diversity(History(steps=steps(0.9), settings=SETTINGS))

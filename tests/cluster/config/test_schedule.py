"""Settings that change over a run."""

import pytest

from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.config.schedule import CHANGEABLE, PRESETS
from cluster.errors import ConfigError


def at(config: Config, *, step: int = 0, epoch: float = 0.0) -> dict[str, object]:
    return config.settings_schedule().at(step=step, epoch=epoch)


def scheduled(*phases: str, overrides: tuple[str, ...] = ()) -> Config:
    return load_config(None, [f"schedule=[{', '.join(phases)}]", *overrides], environment={})


def test_a_key_has_the_run_s_value_until_a_phase_sets_it_and_then_keeps_it() -> None:
    config = scheduled(
        "{from_step: 10, set: {rollout.temperature: 1.2}}",
        "{from_step: 20, set: {learner.learning_rate: 1.0e-6}}",
        overrides=("temperature=0.9", "learning_rate=5e-6"),
    )
    assert at(config, step=9) == {"rollout.temperature": 0.9, "learner.learning_rate": 5e-6}
    assert at(config, step=10) == {"rollout.temperature": 1.2, "learner.learning_rate": 5e-6}
    assert at(config, step=500) == {"rollout.temperature": 1.2, "learner.learning_rate": 1e-6}


def test_a_ramp_is_linear_from_the_previous_phase() -> None:
    config = scheduled(
        "{from_epoch: 1, set: {rollout.temperature: 1.0, rollout.group_size: 4}}",
        "{from_epoch: 3, set: {rollout.temperature: 2.0, rollout.group_size: 8}, ramp: true}",
        overrides=("temperature=0.5",),
    )
    assert at(config, epoch=0.5)["rollout.temperature"] == 0.5
    assert at(config, epoch=1.5) == {"rollout.temperature": 1.25, "rollout.group_size": 5}
    assert at(config, epoch=3.5) == {"rollout.temperature": 2.0, "rollout.group_size": 8}


def test_a_first_phase_with_a_ramp_starts_from_the_run_s_value() -> None:
    config = scheduled("{from_step: 10, set: {learner.kl_coefficient: 0.1}, ramp: true}")
    assert at(config, step=5) == {"learner.kl_coefficient": pytest.approx(0.05)}


def test_the_staged_rewards_of_the_first_analysis_are_a_preset() -> None:
    config = load_config(None, ["schedule=staged-rewards"], environment={})
    weights = [
        [at(config, epoch=epoch)[f"grader.weights.{term}"] for term in ("structural", "type_check", "compile", "tests")]
        for epoch in (0.0, 0.5, 1.0, 7.0)
    ]
    assert weights == [[0.1, 0.4, 0.3, 0.2], [0.05, 0.25, 0.2, 0.5], [0.05, 0.2, 0.1, 0.65], [0.05, 0.2, 0.1, 0.65]]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_possible_configuration(name: str) -> None:
    config = load_config(None, [f"schedule={name}"], environment={})
    assert set(at(config)) <= set(CHANGEABLE)


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ("none-such", "unknown preset; write one of staged-rewards, explore-refine"),
        ("[{set: {rollout.temperature: 1}}]", "each entry has either from_step or from_epoch"),
        (
            "[{from_step: 1, from_epoch: 1, set: {rollout.temperature: 1}}]",
            "each entry has either from_step or from_epoch",
        ),
        ("[{from_step: 1, set: {learner.lora.r: 8}}]", "learner.lora.r cannot change during a run"),
        ("[{from_step: 1, set: {temperature: 1.2}}]", "did you mean rollout.temperature?"),
        ("[{from_step: 1, set: {rollout.temprature: 1.2}}]", "did you mean rollout.temperature?"),
        ("[{from_step: 1, set: {temprature: 1.2}}]", "did you mean rollout.temperature?"),
        ("[{from_step: 1, set: {loop.max_steps: 8}}]", "loop.max_steps cannot change during a run"),
        ("[{from_step: 1, set: {rollout.temperature: -1}}]", "rollout.temperature=-1"),
        (
            "[{from_step: 1, set: {rollout.max_completion_tokens: 9000}}]",
            "more than the 512 that the engines start with",
        ),
        (
            "[{from_step: 5, set: {rollout.temperature: 1}}, {from_step: 2, set: {rollout.temperature: 2}}]",
            "each entry starts after the previous one, not at 5, 2",
        ),
        (
            "[{from_step: 5, set: {rollout.temperature: 1}}, {from_epoch: 9, set: {rollout.temperature: 2}}]",
            "count either steps",
        ),
        ("[{from_step: 5, ramp: true, set: {loop.drop_groups_without_signal: true}}]", "a ramp cannot reach it"),
        ("[{from_step: 5, ramp: true, set: {grader.weights.tests: 0.5}}]", "needs a number to start from"),
        ("[{from_step: 5, set: {grader.weights.tests: 0.9}}]", "weights"),
    ],
)
def test_impossible_schedules_are_refused_with_the_reason(phases: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"schedule={phases}"], environment={})
    assert message in str(caught.value)

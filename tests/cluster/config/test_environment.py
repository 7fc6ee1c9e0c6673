from pathlib import Path

import pytest

from cluster.cli.main import main
from cluster.cli.supervised import read_variables
from cluster.config.config import Config, flatten
from cluster.config.environment import ENVIRONMENT, NOT_USED, read_environment
from cluster.config.keys import keys
from cluster.config.load import explain_keys, load_config
from cluster.errors import ConfigError

CONFIGS = Path(__file__).parents[3] / "configs"

# The .envrc of the original project: every variable with a value other than Caravan's default, and the key that it sets.
ENVRC = {
    "BASE_MODEL_ID": ("some/model", "model.path", "some/model"),
    "TRAINING_DATASET": ("mine.jsonl", "data.dataset", "mine.jsonl"),
    "GRPO_OUTPUT_DIR": ("grpo_runs", "run.folder", "grpo_runs"),
    "GRPO_BATCH_SIZE": ("3", "loop.groups_per_step", 6),
    "GRPO_GRAD_ACCUM_STEPS": ("2", "loop.groups_per_step", 6),
    "GRPO_NUM_GENERATIONS": ("12", "rollout.group_size", 12),
    "GRPO_TEMPERATURE": ("1.1", "rollout.temperature", 1.1),
    "GRPO_MAX_PROMPT": ("500", "rollout.max_prompt_tokens", 500),
    "GRPO_MAX_COMPLETION": ("600", "rollout.max_completion_tokens", 600),
    "GRPO_LEARNING_RATE": ("8e-6", "learner.learning_rate", 8e-6),
    "GRPO_BETA": ("0.04", "learner.kl_coefficient", 0.04),
    "GRPO_TOP_ENTROPY_QUANTILE": ("0.2", "learner.top_entropy_quantile", 0.2),
    "GRPO_DISABLE_PROSE_PENALTY": ("true", "grader.degenerate_multiplier", 1.0),
    "GRPO_NUM_EPOCHS": ("2", "loop.epochs", 2.0),
    "GRPO_MAX_GRAD_NORM": ("0.5", "learner.max_grad_norm", 0.5),
    "GRPO_SAVE_STEPS": ("70", "loop.save_every_steps", 70),
    "GRPO_SAVE_TOTAL_LIMIT": ("30", "learner.save_total_limit", 30),
    "REWARD_POOL_SIZE": ("7", "grader.num_graders", 7),
    "RUNAWAY_PENALTY_MULTIPLIER": ("0.5", "grader.runaway_multiplier", 0.5),
    "MIN_NON_EMPTY_LINES": ("4", "grader.min_code_lines", 4),
    "LORA_R": ("16", "learner.lora.r", 16),
    "LORA_ALPHA": ("8", "learner.lora.alpha", 8),
    "LORA_DROPOUT": ("0.1", "learner.lora.dropout", 0.1),
    "LORA_BIAS": ("none", "learner.lora.bias", "none"),
    "LORA_TARGET_MODULES": ("q_proj, v_proj", "learner.lora.target_modules", ["q_proj", "v_proj"]),
}
UNUSED = {
    "GRPO_LOGGING_STEPS": "1",
    "SFT_DATASET": "kiranpg/ocaml-sft-problems",
    "SFT_BATCH_SIZE": "4",
    "SFT_WARMUP_RATIO": "0.03",
    "SFT_PUSH_TO_HUB": "false",
}


def load(environment: dict[str, str], *overrides: str) -> tuple[Config, list[str]]:
    lines: list[str] = []
    return load_config(None, overrides, environment, log=lines.append), lines


def test_every_variable_of_the_original_project_sets_a_key_or_is_reported_once() -> None:
    given = {name: value for name, (value, _, _) in ENVRC.items()}
    config, lines = load({**given, **UNUSED, "PYTHONUNBUFFERED": "1", "HOME": "/root"})
    plain = flatten(config)
    assert {key: plain[key] for _, key, _ in ENVRC.values()} == {key: value for _, key, value in ENVRC.values()}
    used, unused = lines
    assert all(used.count(f"({name}") == 1 for name in given if name != "GRPO_GRAD_ACCUM_STEPS")
    assert "loop.groups_per_step=6 (GRPO_BATCH_SIZE=3 x GRPO_GRAD_ACCUM_STEPS=2)" in used
    assert all(unused.count(name) == 1 for name in UNUSED)
    assert "PYTHONUNBUFFERED" not in used + unused


def test_an_environment_without_variables_logs_nothing() -> None:
    config, lines = load({"HOME": "/root", "GRPO_BETA": "", "LORA_R": "  ", "BASE_MODEL_ID": ""})
    assert (config, lines) == (Config(), [])


def test_a_value_of_the_command_line_is_not_reported_as_one_of_the_environment() -> None:
    config, lines = load({"GRPO_BETA": "0.04", "GRPO_TEMPERATURE": "1.2"}, "kl_coefficient=0.1")
    assert (config.learner.kl_coefficient, config.rollout.temperature) == (0.1, 1.2)
    assert lines == ["set by environment variables: rollout.temperature=1.2 (GRPO_TEMPERATURE)"]


@pytest.mark.parametrize(
    ("variable", "value", "hint"),
    [
        ("GRPO_TEMPERATUR", "1", "did you mean GRPO_TEMPERATURE?"),
        ("GRPO_EPSILON", "0.2", "set learner.epsilon"),
        ("GRPO_SOMETHING_ELSE", "5", "`caravan keys` lists all settings"),
        ("LORA_RANK", "8", ""),
        ("REWARD_POOL_SIZES", "4", "did you mean REWARD_POOL_SIZE?"),
        ("GRPO_GRAD_ACCUM_STEPS", "4", "multiplies GRPO_BATCH_SIZE, which is not set"),
        ("LORA_BIAS", "all", "biases are not trained"),
        ("GRPO_DISABLE_PROSE_PENALTY", "false", "leaves grader.degenerate_multiplier"),
    ],
)
def test_a_variable_that_sets_nothing_is_reported_once_and_is_no_error(variable: str, value: str, hint: str) -> None:
    config, lines = load({variable: value})
    assert config == Config()
    assert len(lines) == 1
    assert lines[0].count(f"{variable} (") == 1
    assert hint in lines[0]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GRPO_BETA", "small"),
        ("GRPO_NUM_GENERATIONS", "1"),
        ("GRPO_NUM_GENERATIONS", "4.5"),
        ("REWARD_POOL_SIZE", "auto"),
        ("LORA_R", "600"),
        ("GRPO_TOP_ENTROPY_QUANTILE", "20"),
        ("GRPO_DISABLE_PROSE_PENALTY", "maybe"),
        ("GRPO_SAVE_TOTAL_LIMIT", "-1"),
    ],
)
def test_an_impossible_value_is_refused_with_the_variable(variable: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({variable: value})
    assert variable in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_batch_size_that_is_not_a_number_is_refused_with_its_variable() -> None:
    with pytest.raises(ConfigError, match="GRPO_GRAD_ACCUM_STEPS='two' is not a whole number"):
        load({"GRPO_BATCH_SIZE": "4", "GRPO_GRAD_ACCUM_STEPS": "two"})


def test_an_invalid_value_of_the_command_line_is_not_reported_for_a_variable() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"GRPO_BETA": "0.1"}, "kl_coefficient=-1")
    assert "GRPO_BETA" not in str(caught.value)


def test_a_pool_size_of_0_means_one_grader() -> None:
    assert load({"REWARD_POOL_SIZE": "0"})[0].grader.num_graders == 1


def test_every_variable_is_listed_and_sets_an_existing_key() -> None:
    explained = explain_keys()
    assert all(variable in explained for variable in (*ENVIRONMENT, *NOT_USED))
    assert set(ENVIRONMENT.values()) <= set(keys())
    assert read_environment({}, keys()).values == {}


# Every SFT_ variable of the original project's .envrc.
SUPERVISED = {
    "SFT_DATASET": "pairs.jsonl",
    "SFT_OUTPUT_DIR": "sft_runs",
    "SFT_BATCH_SIZE": "2",
    "SFT_GRAD_ACCUM_STEPS": "8",
    "SFT_LEARNING_RATE": "2e-5",
    "SFT_NUM_EPOCHS": "3",
    "SFT_MAX_SEQ_LENGTH": "1024",
    "SFT_LOGGING_STEPS": "10",
    "SFT_LR_SCHEDULER_TYPE": "cosine",
    "SFT_WARMUP_RATIO": "0.03",
    "SFT_WEIGHT_DECAY": "0.01",
    "SFT_MAX_GRAD_NORM": "1.0",
    "SFT_OPTIMIZER": "adamw_8bit",
    "SFT_PUSH_TO_HUB": "false",
    "SFT_HUB_MODEL_ID": "me/model",
    "SFT_SAVE_STEPS": "50",
    "SFT_SAVE_TOTAL_LIMIT": "2",
}


def test_the_variables_of_supervised_training_are_options_or_reported_once() -> None:
    found = read_variables({**SUPERVISED, "GRPO_BETA": "0.1", "SFT_EVAL_STEPS": ""}, [])
    assert set(found.arguments) == {
        "data.dataset=pairs.jsonl",
        "--out=sft_runs",
        "--micro-batch-size=2",
        "--batch-size=16",
        "--learning-rate=2e-5",
        "--epochs=3",
        "--save-steps=50",
        "--keep=2",
    }
    used, unused = found.lines
    assert all((used + unused).count(name) == 1 for name in SUPERVISED if name not in ("SFT_BATCH_SIZE",))


def test_an_option_takes_precedence_over_its_variable() -> None:
    given = ["--epochs", "1", "--out=here", "dataset=mine.jsonl"]
    found = read_variables(
        {name: SUPERVISED[name] for name in ("SFT_DATASET", "SFT_OUTPUT_DIR", "SFT_NUM_EPOCHS")}, given
    )
    assert (list(found.arguments), list(found.lines)) == ([], [])
    assert list(read_variables({"SFT_BATCH_SIZE": "4"}, []).arguments) == ["--micro-batch-size=4", "--batch-size=4"]
    alone = read_variables({"SFT_GRAD_ACCUM_STEPS": "4"}, [])
    assert list(alone.arguments) == []
    assert "it multiplies SFT_BATCH_SIZE" in alone.lines[0]


@pytest.mark.parametrize("name", ["SFT_NUM_EPOCHS", "SFT_BATCH_SIZE", "SFT_GRAD_ACCUM_STEPS", "SFT_LEARNING_RATE"])
def test_a_bad_value_stops_only_supervised_training(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SFT_BATCH_SIZE", "4")
    monkeypatch.setenv(name, "many")
    assert main(["sft", "--out", "x"]) == 2
    assert f"environment variable {name}: 'many' is not a number" in capsys.readouterr().err
    assert main(["keys"]) == 0
    assert name in capsys.readouterr().out

from pathlib import Path

import pytest
import yaml

from cluster.config.config import Config, dump_yaml, validate
from cluster.config.keys import keys
from cluster.config.load import explain_keys, load_config
from cluster.errors import ConfigError

CONFIGS = Path(__file__).parents[3] / "configs"


def test_the_length_of_the_last_source_takes_precedence(tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    file.write_text("loop: {epochs: 3.0}\n")
    loop = load_config(file, ["max_steps=5"], environment={}).loop
    assert (loop.max_steps, loop.epochs) == (5, None)
    loop = load_config(file, [], environment={"GRPO_NUM_EPOCHS": "2"}).loop
    assert (loop.max_steps, loop.epochs) == (None, 2.0)
    loop = load_config(file, ["max_steps=5"], environment={"GRPO_NUM_EPOCHS": "2"}).loop
    assert (loop.max_steps, loop.epochs) == (5, None)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_the_shipped_configurations_load(path: Path) -> None:
    assert load_config(path, environment={}).run.name == path.stem


def test_later_sources_take_precedence(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("rollout: {temperature: 0.5, group_size: 4}\nlearner: {learning_rate: 1e-5}\n")
    environment = {"GRPO_TEMPERATURE": "0.6", "GRPO_NUM_GENERATIONS": "8"}
    config = load_config(path, ["rollout.temperature=0.7"], environment)
    assert (config.rollout.temperature, config.rollout.group_size, config.learner.learning_rate) == (0.7, 8, 1e-5)


def test_an_unambiguous_end_of_a_key_is_accepted() -> None:
    config = load_config(None, ["learning_rate=7e-6", "temperature=1.2"], environment={})
    assert (config.learner.learning_rate, config.rollout.temperature) == (7e-6, 1.2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rollout.temprature=1"], "unknown key 'rollout.temprature'; did you mean rollout.temperature"),
        (["nonsense=1"], "unknown key 'nonsense'"),
        (["rollout.temperature"], "write key=value"),
        (["rollout.stop=["], "rollout.stop=[ is not YAML"),
        (["group_size=1"], "group_size=1"),
        (["temperature=-1"], "rollout.temperature=-1"),
        (["temperature=warm"], "rollout.temperature='warm'"),
        (["learner.lora.r=600"], "learner.lora.r=600: Input should be less than or equal to 512"),
        (["max_steps=5", "epochs=2"], "loop.max_steps and loop.epochs contradict each other"),
        (["run.name=../elsewhere"], "run.name"),
        (["run.name=.."], "run.name='..'"),
        (["run.name=" + 300 * "x"], "has 300 bytes"),
        (["run.name=" + 100 * "语"], "has 300 bytes"),
        (["run.name=a\tb"], "control characters"),
        (["run.folder=a\0b"], "control characters"),
        (["max_staleness=-1"], "loop.max_staleness=-1"),
        (["min_mean_reward=0.9", "max_mean_reward=0.5"], "loop.min_mean_reward=0.9"),
        (["rollout.top_p=0.9"], "the gradient is biased"),
        (["top_p=0.9"], "'top_p' is ambiguous: evaluation.top_p, rollout.top_p"),
    ],
)
def test_an_impossible_setting_is_refused_with_key_and_reason(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides, environment={})
    assert message in str(caught.value)


def test_an_unknown_section_in_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("rollouts: {temperature: 1}\n")
    with pytest.raises(ConfigError, match="unknown key 'rollouts'"):
        load_config(path, environment={})


@pytest.mark.parametrize(
    "content",
    [
        "model.path: tiny\nlearner.lora.r: 8\nrollout.temperature: 1.1\n",
        "model.path: tiny\nr: 8\ntemperature: 1.1\n",
        "model: {path: tiny}\nlearner.lora: {r: 8}\nrollout:\ntemperature: 1.1\n",
        "model: {path: tiny}\nlora: {r: 8}\nrollout.temperature: 1.1\n",
    ],
)
def test_a_file_may_hold_dotted_keys_and_their_ends(tmp_path: Path, content: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    config = load_config(path, environment={})
    assert (config.model.path, config.learner.lora.r, config.rollout.temperature) == ("tiny", 8, 1.1)
    assert config.learner.lora.alpha == Config().learner.lora.alpha


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("run: {name: x}\nmodel:\nrun: {seed: 1}\n", "c.yaml: 'run' is given twice, in lines 1 and 3"),
        ("rollout:\n  temperature: 1\n  temperature: 2\n", "'temperature' is given twice, in lines 2 and 3"),
        ("temperature: 1\nrollout: {temperature: 2}\n", "rollout.temperature is given twice, once under 'temperature'"),
        (
            "learner.lora: {r: 8}\nlearner: {lora: {r: 16}}\n",
            "learner.lora.r is given twice, once under 'learner.lora'",
        ),
        ("rolout: {temperature: 1}\n", "unknown key 'rolout'; did you mean rollout"),
        ("temprature: 1\n", "unknown key 'temprature'; did you mean rollout.temperature"),
        ("model: tiny\n", "write `model: {path: tiny}`"),
        ("model: tiny\nmodel.adapter: x\n", "write `model: {path: tiny}`"),
        ("learner: {lora: 8}\n", "learner.lora is a section of settings: write `learner.lora: {r: ...}`"),
    ],
)
def test_a_file_with_a_mistake_is_refused_with_the_correction(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path, environment={})
    assert message in str(caught.value)


@pytest.mark.parametrize(("content", "message"), [("- a\n", "must hold sections"), ("a: [", "is not YAML")])
def test_a_file_that_is_not_a_configuration_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_config(path, environment={})


def test_a_section_without_keys_keeps_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("run:\nrollout:\n  # temperature: 1.0\n")
    config = load_config(path, environment={})
    assert (config.run.name, config.rollout.temperature) == ("c", 0.9)


@pytest.mark.parametrize("content", ["run: 5\n", "rollout: 5\n"])
def test_a_section_that_is_a_number_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError):
        load_config(path, environment={})


def test_a_written_configuration_loads_unchanged() -> None:
    config = load_config(CONFIGS / "demo.yaml", ["temperature=1.25"], environment={})
    assert validate(yaml.safe_load(dump_yaml(config))) == config


def test_every_key_is_explained() -> None:
    explained = explain_keys()
    assert all(f"{key} = " in explained for key in keys())
    assert set(Config.model_fields) == {key.split(".")[0] for key in keys()}


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("run.name=1.10", "1.10"),
        ("run.name=2026-11-22", "2026-11-22"),
        ("run.name=yes", "yes"),
        ("run.name=007", "007"),
        ("run.name=naïve 语", "naïve 语"),
        ("run.name=demo (copy)", "demo (copy)"),
        ('run.name="1.10"', "1.10"),
        ("run.name=null", None),
        ("run.name=", None),
    ],
)
def test_a_text_on_the_command_line_stays_a_text(override: str, name: str | None) -> None:
    assert load_config(None, [override], environment={}).run.name == name


def test_a_model_and_an_adapter_may_lie_in_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    config = load_config(None, ["model.path=~/models/tiny", "model.adapter=~/runs/r/adapter"], environment={})
    assert config.model.path == "/home/ada/models/tiny"
    assert config.model.adapter == Path("/home/ada/runs/r/adapter")


@pytest.mark.parametrize("value", ["2026-13-45", "9" * 5000, "[" * 5000])
def test_a_value_that_yaml_cannot_construct_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="is not YAML: ") as refused:
        load_config(None, [f"prompt.date={value}"], environment={})
    assert len(str(refused.value)) < 500


def test_a_configuration_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="it is not UTF-8 text"):
        load_config(path, environment={})


@pytest.mark.parametrize(
    "key",
    ["learner.learning_rate", "grader.assert_cpu_seconds", "rollout.request_deadline_seconds", "learner.lora.alpha"],
)
def test_an_infinite_value_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=r"inf: Input should be"):
        load_config(None, [f"{key}=.inf"], environment={})

"""Settings in environment variables.

The variables are those of the scripts of the two training analyses (README, "Why"), so that their ``.envrc`` works here. A
variable that sets no key is logged as unused and does not stop a command.
"""

import difflib
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from cluster.errors import ConfigError

BATCH_SIZE, ACCUMULATION = "GRPO_BATCH_SIZE", "GRPO_GRAD_ACCUM_STEPS"
POOL_SIZE, NO_PROSE_PENALTY, BIAS = "REWARD_POOL_SIZE", "GRPO_DISABLE_PROSE_PENALTY", "LORA_BIAS"

ENVIRONMENT: Mapping[str, str] = {
    "GRPO_MODEL_ID": "model.path",
    "BASE_MODEL_ID": "model.path",
    "TRAINING_DATASET": "data.dataset",
    "GRPO_OUTPUT_DIR": "run.folder",
    BATCH_SIZE: "loop.groups_per_step",
    "GRPO_NUM_EPOCHS": "loop.epochs",
    "GRPO_SAVE_STEPS": "loop.save_every_steps",
    "GRPO_NUM_GENERATIONS": "rollout.group_size",
    "GRPO_TEMPERATURE": "rollout.temperature",
    "GRPO_MAX_PROMPT": "rollout.max_prompt_tokens",
    "GRPO_MAX_COMPLETION": "rollout.max_completion_tokens",
    POOL_SIZE: "grader.num_graders",
    NO_PROSE_PENALTY: "grader.degenerate_multiplier",
    "RUNAWAY_PENALTY_MULTIPLIER": "grader.runaway_multiplier",
    "MIN_NON_EMPTY_LINES": "grader.min_code_lines",
    "GRPO_LEARNING_RATE": "learner.learning_rate",
    "GRPO_BETA": "learner.kl_coefficient",
    "GRPO_TOP_ENTROPY_QUANTILE": "learner.top_entropy_quantile",
    "GRPO_MAX_GRAD_NORM": "learner.max_grad_norm",
    "GRPO_SAVE_TOTAL_LIMIT": "learner.save_total_limit",
    "LORA_R": "learner.lora.r",
    "LORA_ALPHA": "learner.lora.alpha",
    "LORA_DROPOUT": "learner.lora.dropout",
    BIAS: "learner.lora.bias",
    "LORA_TARGET_MODULES": "learner.lora.target_modules",
}
"""Variable -> key. If two variables set the same key, the later one in this table counts."""

NOT_USED: Mapping[str, str] = {
    "GRPO_LOGGING_STEPS": "every step is logged",
    "GRPO_GENERATION_BATCH_SIZE": "a step samples loop.groups_per_step groups of rollout.group_size completions",
    ACCUMULATION: f"it multiplies {BATCH_SIZE}, which is not set; loop.groups_per_step says how many groups a step has",
    NO_PROSE_PENALTY: "false leaves grader.degenerate_multiplier to the reward profile",
    BIAS: "biases are not trained: vLLM serves no adapter that changes them",
}
"""Variable -> why it sets no key, and what to set instead."""

FORWARDED_TO_JOBS = (*ENVIRONMENT, ACCUMULATION)
"""Variables that are sent along with a submitted job, so that it has the same configuration."""

FAMILIES = ("GRPO_", "SFT_", "LORA_")
"""Prefixes of variables that are meant for training."""

YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentSettings:
    """Settings found in the environment."""

    values: Mapping[str, str | list[str]] = field(default_factory=dict)  # by key
    variables: Mapping[str, str] = field(default_factory=dict)  # variable and text that set a key, by key
    unused: tuple[str, ...] = ()  # variables that set no key, each with the reason

    def lines(self, overridden: Container[str] = ()) -> Iterator[str]:
        """Yield log lines: keys set by variables, without ``overridden`` ones, and unused variables."""
        shown = {key: ",".join(value) if isinstance(value, list) else value for key, value in self.values.items()}
        named = [f"{key}={shown[key]} ({self.variables[key]})" for key in shown if key not in overridden]
        if named:
            yield f"set by environment variables: {', '.join(named)}"
        if self.unused:
            yield f"environment variables that are not used: {'; '.join(self.unused)}"


def read_environment(environment: Mapping[str, str], keys: Iterable[str]) -> EnvironmentSettings:
    """Return the settings in an environment; ``keys``: all existing keys. Empty variables count as unset.

    Raises ConfigError, which names the variable, for an invalid value.
    """
    given = {name: text for name, value in environment.items() if (text := value.strip())}
    values: dict[str, str | list[str]] = {}
    variables: dict[str, str] = {}
    for variable, key in ENVIRONMENT.items():
        if variable in given and (value := _value(variable, given)) is not None:
            values[key] = value
            variables[key] = _origin(variable, given)
    return EnvironmentSettings(values=values, variables=variables, unused=tuple(_unused(given, list(keys))))


def _value(variable: str, given: Mapping[str, str]) -> str | list[str] | None:
    """Return the value that a variable gives its key; None if the variable sets no key."""
    text = given[variable]
    if variable == NO_PROSE_PENALTY:
        return "1" if _is_yes(variable, text) else None
    if variable == "LORA_TARGET_MODULES":
        return [name for part in text.split(",") if (name := part.strip())]
    if variable == BIAS and text != "none":
        return None  # see NOT_USED
    if variable == POOL_SIZE and text == "0":
        return "1"  # the scripts grade one completion at a time without a pool
    if variable == BATCH_SIZE and ACCUMULATION in given:
        # In the scripts a prompt of the batch is a group, and accumulation multiplies the batch.
        return str(_whole(BATCH_SIZE, text) * _whole(ACCUMULATION, given[ACCUMULATION]))
    return text


def _origin(variable: str, given: Mapping[str, str]) -> str:
    """Return the text of the log that names a variable, with both factors of a product."""
    is_product = variable == BATCH_SIZE and given.get(ACCUMULATION, "1") != "1"
    return f"{variable}={given[variable]} x {ACCUMULATION}={given[ACCUMULATION]}" if is_product else variable


def _whole(variable: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{variable}={text!r} is not a whole number (environment variable)") from None


def _is_yes(variable: str, text: str) -> bool:
    if text.lower() not in (*YES, *NO):
        raise ConfigError(f"{variable}={text!r} is neither true nor false (environment variable)")
    return text.lower() in YES


def _unused(given: Mapping[str, str], keys: list[str]) -> Iterator[str]:
    """Yield variables that set no key, each with the reason."""
    supervised = [name for name in given if name.startswith("SFT_")]
    if supervised:
        yield f"{', '.join(supervised)} (for supervised training: see `caravan sft --help`)"
    for name in given:
        if name in supervised or (name == ACCUMULATION and BATCH_SIZE in given):
            continue
        if name in ENVIRONMENT and _value(name, given) is not None:
            continue
        if name in NOT_USED:
            yield f"{name} ({NOT_USED[name]})"
        elif name.startswith(FAMILIES):
            yield f"{name} ({_hint(name, keys)})"
        elif near := difflib.get_close_matches(name, _WITHOUT_FAMILY, n=1, cutoff=0.85):
            yield f"{name} (did you mean {near[0]}?)"


_WITHOUT_FAMILY = [name for name in ENVIRONMENT if not name.startswith(FAMILIES)]


def _hint(name: str, keys: list[str]) -> str:
    """Return a hint for an unknown variable: a similar variable or key."""
    option = name.partition("_")[2].lower()
    if same := [key for key in keys if key.rsplit(".", 1)[-1] == option]:
        return f"set {' or '.join(same)}"
    if near := difflib.get_close_matches(name, [*ENVIRONMENT, *NOT_USED], n=1, cutoff=0.8):
        return f"did you mean {near[0]}?"
    if near := [key for key in keys if difflib.get_close_matches(option, [key.rsplit(".", 1)[-1]], cutoff=0.75)]:
        return f"did you mean {' or '.join(near)}?"
    return "unknown; `caravan keys` lists all settings"

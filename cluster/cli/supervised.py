"""The ``SFT_...`` environment variables of the original project, as options of ``caravan sft``."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cluster.cli.command import count, positive
from cluster.errors import ConfigError

PREFIX = "SFT_"
BATCH_SIZE, ACCUMULATION = "SFT_BATCH_SIZE", "SFT_GRAD_ACCUM_STEPS"

OPTIONS: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "SFT_OUTPUT_DIR": ("--out", str),
    "SFT_NUM_EPOCHS": ("--epochs", positive),
    "SFT_LEARNING_RATE": ("--learning-rate", positive),
    BATCH_SIZE: ("--micro-batch-size", count),
    ACCUMULATION: ("--batch-size", count),
    "SFT_SAVE_STEPS": ("--save-steps", count),
    "SFT_SAVE_TOTAL_LIMIT": ("--keep", count),
}
"""Variable -> (option, parser of the value)."""

DATASET = "SFT_DATASET"

NOT_USED: Mapping[str, str] = {
    "SFT_MAX_SEQ_LENGTH": "set rollout.max_prompt_tokens; solutions are never truncated",
    "SFT_WARMUP_RATIO": "set --warmup-steps",
    "SFT_LR_SCHEDULER_TYPE": "always a cosine down to a tenth, after the warm-up",
    "SFT_LOGGING_STEPS": "every step is logged",
    "SFT_WEIGHT_DECAY": "always 0.01",
    "SFT_MAX_GRAD_NORM": "always 1",
    "SFT_OPTIMIZER": "always AdamW",
    "SFT_PUSH_TO_HUB": "nothing is published; upload OUT yourself",
    "SFT_HUB_MODEL_ID": "nothing is published; upload OUT yourself",
    "SFT_EVAL_SPLIT": "data.held_out sets the number of held-out problems",
    "SFT_EVAL_STEPS": "`caravan eval model.path=OUT` measures the model",
}
"""Variable without effect -> reason, or what to set instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervised:
    """Arguments that the environment adds to ``caravan sft``."""

    arguments: Sequence[str]
    lines: Sequence[str]  # log lines


def read_variables(environment: Mapping[str, str], given: Sequence[str]) -> Supervised:
    """Options from the variables, except the ``given`` ones. Raises ConfigError, which names the variable, for a bad value."""
    texts = {name: text for name, value in environment.items() if name.startswith(PREFIX) and (text := value.strip())}
    if ACCUMULATION in texts and BATCH_SIZE not in texts:
        del texts[ACCUMULATION]
        unused = [f"{ACCUMULATION} (it multiplies {BATCH_SIZE}, which is not set: set --batch-size)"]
    else:
        texts |= _batch(texts)
        unused = []
    values = {name: (OPTIONS[name][0], _read(name, text)) for name, text in texts.items() if name in OPTIONS}
    unused += [f"{name} ({NOT_USED.get(name, 'unknown')})" for name in texts if name not in (*OPTIONS, DATASET)]
    arguments, named = [], []
    for name, (option, value) in values.items():
        if not any(argument == option or argument.startswith(f"{option}=") for argument in given):
            arguments.append(f"{option}={value}")
            named.append(f"{option}={value} ({f'{BATCH_SIZE} x {ACCUMULATION}' if name == ACCUMULATION else name})")
    if DATASET in texts and not any(argument.split("=")[0] in ("dataset", "data.dataset") for argument in given):
        arguments.append(f"data.dataset={texts[DATASET]}")
        named.append(f"data.dataset={texts[DATASET]} ({DATASET})")
    lines = [f"set by environment variables: {', '.join(named)}"] if named else []
    lines += [f"environment variables that are not used: {'; '.join(unused)}"] if unused else []
    return Supervised(arguments=arguments, lines=lines)


def without_supervised(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without these variables."""
    return {name: value for name, value in environment.items() if not name.startswith(PREFIX)}


def explain_variables() -> str:
    """Help on every variable: its option, or the reason why it has none."""
    options = [f"{name}\n    {option}" for name, (option, _) in OPTIONS.items()]
    unused = [f"{name}\n    sets nothing: {reason}" for name, reason in NOT_USED.items()]
    return "\n".join(["Environment variables of `caravan sft`:", *options, f"{DATASET}\n    data.dataset", *unused])


def _batch(texts: Mapping[str, str]) -> dict[str, str]:
    """The batch size in pairs, in place of the number of accumulated passes."""
    passes = _read(ACCUMULATION, texts.get(ACCUMULATION, "1"))
    if BATCH_SIZE in texts:
        return {ACCUMULATION: str(int(_read(BATCH_SIZE, texts[BATCH_SIZE])) * int(passes))}
    return {}


def _read(name: str, text: str) -> str:
    try:
        OPTIONS[name][1](text)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"environment variable {name}: {error}") from None
    return text

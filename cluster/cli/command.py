"""What a command of ``caravan`` is made of, and what several of them take."""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """One command: what ``--help`` says of it, what it takes, and what it does, which returns an exit status."""

    name: str
    summary: str
    epilog: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


CONFIG_HELP = """\
settings, each later one winning: defaults < the YAML file (-c) < environment (TRAINING_DATASET, GRPO_NUM_GENERATIONS,
GRPO_TEMPERATURE, GRPO_LEARNING_RATE, ...) < key=value on the command line. A key is dotted (rollout.temperature) or its end
where that is unambiguous (temperature). `caravan keys` lists all of them."""


def add_config(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Let a command take a configuration."""
    place = "a YAML file in this folder" if required else "a YAML file; configs/ has some"
    parser.add_argument("-c", "--config", type=Path, required=required, metavar="FILE", help=place)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that win over the file")


def note(line: str) -> None:
    """Print a line of news where no View does."""
    print(f"caravan: {line}", file=sys.stderr)


def count(text: str) -> int:
    """A whole number of at least 1, as argparse reads it."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def port(text: str) -> int:
    """A port; 0 is any."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def positive(text: str) -> float:
    """A number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def share(text: str) -> float:
    """A share from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return number

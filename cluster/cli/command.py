"""The description of a ``caravan`` command, and the arguments that several commands share."""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Command:
    """One command: its help, its arguments, and the function that runs it and returns an exit status."""

    name: str
    summary: str
    epilog: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


CONFIG_HELP = """\
Settings are read from four places; a later one overrides an earlier one: defaults, the YAML file (-c), environment variables
(TRAINING_DATASET, GRPO_NUM_GENERATIONS, GRPO_TEMPERATURE, GRPO_LEARNING_RATE, ...), key=value on the command line. A key is
written in full (rollout.temperature) or as its last part if that is unambiguous (temperature). `caravan keys` lists all keys."""


def add_config(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Add a configuration file and key=value settings to a command's arguments."""
    place = "a YAML file in this folder" if required else "a YAML file, for example one of configs/"
    parser.add_argument("-c", "--config", type=Path, required=required, metavar="FILE", help=place)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that override the file")


def note(line: str) -> None:
    """Print a log line in a command without a View."""
    print(f"caravan: {line}", file=sys.stderr)


def count(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def port(text: str) -> int:
    """Parse a port from 0 to 65535; 0 selects a free one."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def positive(text: str) -> float:
    """Parse a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def share(text: str) -> float:
    """Parse a share from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return number

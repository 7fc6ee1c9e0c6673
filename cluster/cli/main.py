"""The command line. Whatever is heavy is imported by the command that needs it: ``caravan --help`` answers at once."""

import argparse
import errno
import io
import os
import sys
from typing import NoReturn

from cluster.cli import inspect as looks
from cluster.cli import models, problems, rewards, runs
from cluster.cli.command import note
from cluster.cli.supervised import read_variables
from cluster.errors import CaravanError, ConfigError

INTERRUPTED = 130

DESCRIPTION = """\
Caravan trains code models on OCaml by reinforcement: vLLM engines sample groups of completions, CPU graders compile and test
them with the real OCaml compiler, and a learner takes GRPO steps on a LoRA adapter that goes back to the samplers."""

COMMANDS = (*runs.COMMANDS, *models.COMMANDS, *problems.COMMANDS, *rewards.COMMANDS, *looks.COMMANDS)


def run() -> NoReturn:
    """The ``caravan`` program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # it is None where it was closed
            # A character that the terminal or the log's encoding does not have is no reason to stop.
            stream.reconfigure(errors="replace")
    code = main()
    if "ray" in sys.modules:
        # Threads of Ray 2.60 outlive ray.shutdown() and can crash in _raylet.so while Python takes its modules down: all the
        # work is done by then, but the exit code would say otherwise. So Python is not given the time.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code: 0 done, 1 failed, 2 a wrong argument or setting, 130 interrupted.

    Others are those of single commands: 3 to 5 of eval and health, 6 of an evaluation that lost problems.
    """
    try:
        options = _options(sys.argv[1:] if arguments is None else arguments)
        return int(options.command(options))
    except ConfigError as error:
        print(f"caravan: {error}", file=sys.stderr)
        return 2
    except CaravanError as error:
        print(f"caravan: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read the output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # whatever path it was that somebody gave
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(
            f"caravan: {error.filename}: a name in it is longer than file systems take: give a shorter one",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("caravan: interrupted", file=sys.stderr)
        return INTERRUPTED


def _options(arguments: list[str]) -> argparse.Namespace:
    """What was asked for. argparse takes positional arguments in one place only; settings may stand between options."""
    parser = _parser()
    if arguments[:1] == ["sft"]:
        found = read_variables(os.environ, arguments[1:])
        arguments = ["sft", *found.arguments, *arguments[1:]]
        for line in found.lines:
            note(line)
    options, rest = parser.parse_known_args(arguments)
    others = rest if "settings" not in options else [one for one in rest if one.startswith("-") or "=" not in one]
    if others:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if rest:
        options.settings = [*options.settings, *rest]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="caravan", description=DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        one = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.summary,
            epilog=command.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(one)
        one.set_defaults(command=command.run)
    return parser


if __name__ == "__main__":
    run()

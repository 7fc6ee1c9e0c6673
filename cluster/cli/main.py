"""The command line. Each command imports its heavy packages itself, so that ``caravan --help`` is fast."""

import argparse
import errno
import io
import os
import sys
from pathlib import Path
from typing import NoReturn

from cluster.cli import inspect, models, problems, rewards, runs
from cluster.cli.command import note
from cluster.cli.envrc import ignored_variables
from cluster.cli.supervised import DATASET, OPTIONS, read_variables
from cluster.config.environment import FORWARDED_TO_JOBS
from cluster.errors import CaravanError, ConfigError

INTERRUPTED = 130

DESCRIPTION = """\
Caravan trains code models on OCaml with GRPO: vLLM engines sample groups of completions, CPU graders compile and test them with
the real OCaml compiler, and a learner takes GRPO steps on a LoRA adapter, which is published to the samplers.

Start with `make demo`, or `caravan train -c configs/demo.yaml`. `caravan COMMAND --help` explains a command with examples."""

COMMANDS = (*runs.COMMANDS, *models.COMMANDS, *problems.COMMANDS, *rewards.COMMANDS, *inspect.COMMANDS)


def run() -> NoReturn:
    """Run the ``caravan`` program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a closed stream is None
            # Characters that the encoding of a terminal or log lacks are replaced rather than raised.
            stream.reconfigure(errors="replace")
    code = main()
    if "ray" in sys.modules:
        # Threads of Ray 2.60 outlive ray.shutdown() and can crash in _raylet.so while Python unloads its modules. The work is
        # done by then, but the crash would change the exit code. os._exit skips the unloading.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code: 0 done, 1 failed, 2 wrong argument or setting, 130 interrupted.

    Some commands have further codes: 3 to 5 for eval and health, 6 for an evaluation that lost problems.
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
    except BrokenPipeError:  # the reader of the output, for example `head`, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # caused by a path among the arguments
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(
            f"caravan: {error.filename}: a file name in this path is too long: give a shorter one",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("caravan: interrupted", file=sys.stderr)
        return INTERRUPTED


def _options(arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments. argparse takes positional arguments in one place only; settings may also follow options."""
    parser = _parser()
    names = FORWARDED_TO_JOBS
    if arguments[:1] == ["sft"]:
        names = (*FORWARDED_TO_JOBS, *OPTIONS, DATASET)
        found = read_variables(os.environ, arguments[1:])
        arguments = ["sft", *found.arguments, *arguments[1:]]
        for line in found.lines:
            note(line)
    options, rest = parser.parse_known_args(arguments)
    unknown = (
        rest
        if "settings" not in options
        else [argument for argument in rest if argument.startswith("-") or "=" not in argument]
    )
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        options.settings = [*options.settings, *rest]
    if hasattr(options, "config") and (warning := ignored_variables(Path.cwd(), os.environ, names)):
        note(warning)
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="caravan", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        subparser = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.summary,
            epilog=command.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(subparser)
        subparser.set_defaults(command=command.run)
    return parser


if __name__ == "__main__":
    run()

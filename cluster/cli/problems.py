"""Commands that judge and choose problems."""

import argparse
from pathlib import Path

from cluster.cli.command import Command, count, share
from cluster.config.dataset_part import Part
from cluster.errors import ConfigError

AUDIT_HELP = """\
Judges every problem without Ray, GPU or model. A cause says why no solution can pass: the tests do not parse or do not
type-check under any implementation of the signature, two asserts contradict each other, ... A warning is for you to judge: the
reference solution fails, a stub or a constant passes, asserts that the statement's examples give away, duplicates, ...
`caravan train` leaves out what no solution can pass (data.drop_unpassable).

Each row of OUT, in the order of the data: id, passable, causes and warnings, each a text "code: message".

examples:
  caravan audit problems.jsonl
  caravan audit problems.parquet --out audit.jsonl --workers 8
  caravan audit builtin"""


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    """Let a command take a data set, and which part of it."""
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="a file (CSV, TSV, JSONL, JSON, Parquet, Arrow; texts also as .gz), a folder of such files, a Hugging Face id, "
        "or 'builtin'",
    )
    parser.add_argument("--split", metavar="NAME", help="of a data set with several (default: train)")
    parser.add_argument("--data-config", metavar="NAME", help="configuration (subset) of a data set with several")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a data set of the hub")


def _part(options: argparse.Namespace) -> Part:
    return Part(split=options.split, config=options.data_config, revision=options.revision)


def _audit_arguments(parser: argparse.ArgumentParser) -> None:
    _add_dataset(parser)
    parser.add_argument("--out", type=Path, metavar="OUT", help="a row per problem, as .jsonl or .parquet")
    parser.add_argument("--workers", type=count, metavar="N", help="problems audited at a time (default: the cores)")


def _audit(options: argparse.Namespace) -> int:
    from cluster.problems.audit_report import audit_and_report

    return audit_and_report(options.dataset, options.out, part=_part(options), num_workers=options.workers)


FILTER_HELP = """\
Writes the rows of a data set that are worth training on, as they are, and says how many are left out, and why. What was not
measured or audited, where that is asked for, stays out.

examples:
  caravan eval -c my.yaml --on all num_problems=100000 --out rates.json
  caravan filter problems.jsonl --out kept.jsonl --eval rates.json --min-pass 0.05 --max-pass 0.95

  caravan audit problems.jsonl --out audit.jsonl
  caravan filter problems.jsonl --out kept.parquet --audit audit.jsonl --max-prompt-chars 2000"""


def _filter_arguments(parser: argparse.ArgumentParser) -> None:
    _add_dataset(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="what is kept, as .jsonl or .parquet")
    parser.add_argument(
        "--eval", type=Path, metavar="FILE", dest="measured", help="pass rates, by `caravan eval --out`"
    )
    parser.add_argument("--min-pass", type=share, default=0.0, metavar="P", help="lowest pass rate kept (default 0)")
    parser.add_argument("--max-pass", type=share, default=1.0, metavar="P", help="highest pass rate kept (default 1)")
    parser.add_argument("--audit", type=Path, metavar="FILE", help="verdicts, by `caravan audit --out`")
    parser.add_argument("--max-prompt-chars", type=count, metavar="N", help="longest prompt kept")


def _filter(options: argparse.Namespace) -> int:
    from cluster.problems.filter import Criteria, filter_and_report, read_pass_rates, read_solvable

    if options.measured is None and (options.min_pass, options.max_pass) != (0.0, 1.0):
        raise ConfigError(
            "--min-pass and --max-pass need --eval FILE: pass rates are measured by `caravan eval --out FILE`"
        )
    criteria = Criteria(
        pass_rates=read_pass_rates(options.measured) if options.measured else None,
        min_pass=options.min_pass,
        max_pass=options.max_pass,
        solvable=read_solvable(options.audit) if options.audit else None,
        max_prompt_chars=options.max_prompt_chars,
    )
    return filter_and_report(options.dataset, options.out, criteria, _part(options))


COMMANDS = (
    Command("audit", "find out which problems of a data set can be trusted", AUDIT_HELP, _audit_arguments, _audit),
    Command(
        "filter", "keep the problems of a data set that are worth training on", FILTER_HELP, _filter_arguments, _filter
    ),
)

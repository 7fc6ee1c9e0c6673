"""Commands that audit and filter problems."""

import argparse
from pathlib import Path

from cluster.cli.command import Command, count, share
from cluster.config.dataset_part import Part
from cluster.errors import ConfigError

AUDIT_HELP = """\
Audits every problem without Ray, GPU or model. A cause means that no solution can pass: the tests do not parse or do not
type-check under any implementation of the signature, two asserts contradict each other, ... A warning needs your judgement: the
reference solution fails, a stub or a constant passes, asserts are covered by the examples in the statement, duplicates, ...
`caravan train` excludes problems that no solution can pass (data.drop_unpassable).

OUT has one row for each row of the data, in the same order: id, passable (true/false), causes and warnings. Causes and warnings
are texts "code: message".

The exit status is 0 if every row was audited, even if some are unsolvable or malformed; 1 if the machine failed on some rows, the
data cannot be read or OUT cannot be written; 130 after Ctrl-C, which keeps the rows audited so far. To exclude unsolvable
problems in a script, use `caravan filter --audit OUT`.

examples:
  caravan audit problems.jsonl
  caravan audit problems.parquet --out audit.jsonl --workers 8
  caravan audit builtin"""


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    """Add a data set, and the options that select a part of it, to a command's arguments."""
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="a file (CSV, TSV, JSONL, JSON, Parquet, Arrow; texts also as .gz), a folder of such files, a Hugging Face id, "
        "or 'builtin'",
    )
    parser.add_argument("--split", metavar="NAME", help="split of the data set (default: train)")
    parser.add_argument("--data-config", metavar="NAME", help="configuration (subset) of the data set")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of a data set of the hub")


def _part(options: argparse.Namespace) -> Part:
    return Part(split=options.split, config=options.data_config, revision=options.revision)


def _audit_arguments(parser: argparse.ArgumentParser) -> None:
    _add_dataset(parser)
    parser.add_argument("--out", type=Path, metavar="OUT", help="file for the results, .jsonl or .parquet")
    parser.add_argument(
        "--workers", type=count, metavar="N", help="number of concurrent audits (default: the number of cores)"
    )


def _audit(options: argparse.Namespace) -> int:
    from cluster.problems.audit_report import audit_and_report

    return audit_and_report(options.dataset, options.out, part=_part(options), num_workers=options.workers)


FILTER_HELP = """\
Writes the rows of a data set that meet all conditions, unchanged, to a new file, and prints how many are excluded, and why. Rows
that the file of --eval or --audit does not contain are excluded.

examples:
  caravan eval -c my.yaml --on all num_problems=100000 --out rates.json
  caravan filter problems.jsonl --out kept.jsonl --eval rates.json --min-pass 0.05 --max-pass 0.95

  caravan audit problems.jsonl --out audit.jsonl
  caravan filter problems.jsonl --out kept.parquet --audit audit.jsonl --max-prompt-chars 2000"""


def _filter_arguments(parser: argparse.ArgumentParser) -> None:
    _add_dataset(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="OUT", help="a new file for the kept rows, .jsonl or .parquet"
    )
    parser.add_argument(
        "--eval", type=Path, metavar="FILE", dest="measured", help="pass rates, from `caravan eval --out`"
    )
    parser.add_argument("--min-pass", type=share, default=0.0, metavar="P", help="lowest pass rate kept (default 0)")
    parser.add_argument("--max-pass", type=share, default=1.0, metavar="P", help="highest pass rate kept (default 1)")
    parser.add_argument("--audit", type=Path, metavar="FILE", help="audit results, from `caravan audit --out`")
    parser.add_argument("--max-prompt-chars", type=count, metavar="N", help="length of the longest prompt to keep")


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
    Command(
        "audit",
        "find problems that no solution can pass, or whose tests are weak",
        AUDIT_HELP,
        _audit_arguments,
        _audit,
    ),
    Command(
        "filter",
        "select problems of a data set by pass rate, audit and length",
        FILTER_HELP,
        _filter_arguments,
        _filter,
    ),
)

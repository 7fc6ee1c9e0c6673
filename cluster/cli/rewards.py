"""Commands that grade completions, and that score graded completions under another reward."""

import argparse
from pathlib import Path

from cluster.cli.command import Command, count
from cluster.errors import ConfigError
from grader.profiles import DEFAULT_PROFILE, PROFILES

PROFILE_LINES = "\n".join(f"  {name:<16} {profile.meaning}" for name, profile in PROFILES.items())
REWARD_HELP = f"""\
rewards (--reward [NAME][,key=value...]):
{PROFILE_LINES}
Keys: structural, type_check, compile and tests are weights: the maximum reward of each part. Their sum is at most 1.
Further keys: min_code_lines, runaway_multiplier, degenerate_multiplier, and shown_assert_weight (0 to 1), the weight of
an assert that is covered by an example in the statement. thought_tokens.cap: a completion with more tokens in its thoughts gets
reward 0; thought_tokens.price is subtracted, down to 0, for each 1,000 of them."""


GRADE_HELP = f"""\
Each line of FILE has "id", "prompt", "tests" and "completion", and optionally "finish_reason" ("stop" or "length"; names
of other systems are accepted) and "opened_thought", the tag of a thought that the prompt has opened ("<think>"),
and "num_tokens", the number of its tokens, from which those of its thoughts are estimated by their characters. Ids may repeat.
Each line of OUT, in the same order, has id, line (of FILE), verdict, reward, terms, type_errors, syntax_error, tests_passed,
tests_total, asserts (the outcome of each), errors (each with its line), diagnostics, has_end_marker, hit_length_limit,
num_code_lines, degenerate, thought_tokens (null: unknown) and seconds. A row that cannot be read, or that the machine fails to
grade, is reported with its line number and skipped. The exit status is 1 if a row was skipped.

{REWARD_HELP}

examples:
  caravan grade completions.jsonl --out grades.jsonl
  caravan grade completions.jsonl --out grades.jsonl --workers 8 --min-lines 1
  caravan grade completions.jsonl --out grades.jsonl --reward binary
  caravan grade completions.jsonl --out grades.jsonl --reward {DEFAULT_PROFILE},tests=0.5,shown_assert_weight=0"""


def _grade_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE.jsonl", help="file of completions")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT.jsonl", help="file for the grades")
    parser.add_argument(
        "--workers", type=count, metavar="N", help="number of concurrent gradings (default: the number of cores)"
    )
    parser.add_argument(
        "--min-lines",
        type=int,
        metavar="N",
        help="number of code lines below which the reward is 0 (default: the profile's)",
    )
    parser.add_argument(
        "--reward", metavar="REWARD", help=f"reward profile and changed keys (default {DEFAULT_PROFILE})"
    )
    parser.add_argument("--require-sandbox", action="store_true", help="refuse to grade without bubblewrap or seccomp")


def _grade(options: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from grader.console import grade_with_progress
    from grader.reward_option import with_reward_option
    from grader.settings import GraderSettings

    settings = with_reward_option(options.reward, GraderSettings()) if options.reward is not None else GraderSettings()
    if options.min_lines is not None:
        if settings.min_code_lines not in (None, options.min_lines):
            raise ConfigError("--min-lines and min_code_lines of --reward differ: give one of them")
        try:
            settings = GraderSettings.model_validate({**settings.model_dump(), "min_code_lines": options.min_lines})
        except ValidationError as error:
            raise ConfigError(f"--min-lines {options.min_lines}: {error.errors()[0]['msg']}") from None
    if options.require_sandbox:
        settings = settings.model_copy(update={"require_sandbox": True})
    return grade_with_progress(options.file, options.out, settings=settings, num_workers=options.workers)


REGRADE_HELP = f"""\
Re-scores the completions under RUN/rollouts from their stored facts: nothing is sampled, compiled or run. The run is not changed
and may continue meanwhile. Prints the changes of mean reward, share of groups without signal, and rank order within groups.
Without a NAME, --reward changes keys of the run's reward. Without --reward, the run's own reward is computed again and compared
with the stored rewards.

{REWARD_HELP}

examples:
  caravan regrade runs/demo --reward binary
  caravan regrade runs/demo --reward shown_assert_weight=0
  caravan regrade runs/demo --reward {DEFAULT_PROFILE},structural=0.1,type_check=0.4,compile=0.3,tests=0.2 --out new.parquet"""


def _regrade_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, finished or not")
    parser.add_argument("--reward", metavar="REWARD", help="reward profile and changed keys (default: the run's)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="old and new rewards, as .jsonl or .parquet")


def _regrade(options: argparse.Namespace) -> int:
    from cluster.analysis.regrade_report import regrade_and_report

    return regrade_and_report(options.run, options.reward, options.out)


COMMANDS = (
    Command(
        "grade", "grade a file of completions, without GPU, cluster or model", GRADE_HELP, _grade_arguments, _grade
    ),
    Command(
        "regrade", "re-score the completions of a run under another reward", REGRADE_HELP, _regrade_arguments, _regrade
    ),
)

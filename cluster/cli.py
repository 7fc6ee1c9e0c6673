"""The command line. Whatever is heavy is imported by the command that needs it: ``caravan --help`` answers at once."""

import argparse
import math
import os
import sys
from pathlib import Path
from typing import NoReturn

from cluster.types import CaravanError, ConfigError
from grader.profiles import PROFILES, SEED_PROFILE

INTERRUPTED = 130

DESCRIPTION = """\
Caravan trains code models on OCaml by reinforcement: vLLM engines sample groups of completions, CPU graders compile and test
them with the real OCaml compiler, and a learner takes GRPO steps on a LoRA adapter that goes back to the samplers."""

CONFIG_HELP = """\
settings, each later one winning: defaults < the YAML file (-c) < environment (TRAINING_DATASET, GRPO_NUM_GENERATIONS,
GRPO_TEMPERATURE, GRPO_LEARNING_RATE, ...) < key=value on the command line. A key is dotted (rollout.temperature) or its end
where that is unambiguous (temperature). `caravan keys` lists all of them."""

TRAIN_HELP = f"""\
{CONFIG_HELP}

examples:
  caravan train -c configs/demo.yaml                       the built-in problems and model, on this machine
  caravan train -c configs/demo.yaml run.name=warm temperature=1.2
  caravan train -c configs/qwen1.5b-1gpu.yaml dataset=problems.jsonl max_steps=100

  caravan train --resume runs/warm                         go on; the same as the first command again
  caravan train --resume runs/warm learning_rate=7e-6 temperature=1.2
  caravan train --resume runs/warm max_steps=200           a longer run, finished or not

The same command again goes on from the last checkpoint. Ctrl-C stops after the step under way and saves one. --resume may change
what may change on the way (phases may change the same keys) and the length of the run, from that checkpoint on; config.yaml keeps
it under `branches`."""

SUBMIT_HELP = f"""\
{CONFIG_HELP}

What travels to the cluster is this folder, by ray_job.yaml. Before the run, a job of seconds plans it on the cluster's nodes, and
looks on each for OCaml and the model; what is missing is named. Ctrl-C while the log is followed leaves the run
alone. `ray job stop` stops it with a checkpoint; the same command again goes on. A cluster that asks for a token gets that of
RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.

The exit status is that of the run; 130 where somebody stopped it, or following it.

examples:
  caravan submit -c configs/cluster.yaml run.folder=/data/runs --address http://localhost:8265
  caravan submit -c configs/cluster.yaml max_steps=200 --no-wait"""

EVAL_HELP = f"""\
{CONFIG_HELP}

examples:
  caravan eval -c configs/demo.yaml                        the base model
  caravan eval -c configs/demo.yaml model.adapter=runs/demo/adapter --out result.json
  caravan eval -c configs/demo.yaml evaluation.greedy=true
  caravan eval -c configs/qwen1.5b-1gpu.yaml --base-check
  caravan eval -c configs/demo.yaml --on all num_problems=100000 --out rates.json

With --base-check the exit status is 3 where fewer than 20% of the completions pass: then there is too little to reinforce."""

COMPARE_HELP = """\
Two evaluations of the same problems side by side, and how sure the difference is: 95% intervals by bootstrap over problems, and a
sign-flip test of the pairs. Each is a file of `caravan eval --out`, RUN (its last evaluation), or RUN:NAME, as in
RUN/evaluation.jsonl: before, after, "step 40" (evaluation.at_checkpoints).

examples:
  caravan compare runs/demo:before runs/demo:after
  caravan compare runs/demo runs/warm
  caravan compare base.json trained.json"""

FILTER_HELP = """\
Writes the rows of a data set that are worth training on, as they are, and says how many are left out, and why. What was not
measured or audited, where that is asked for, stays out.

examples:
  caravan eval -c my.yaml --on all num_problems=100000 --out rates.json
  caravan filter problems.jsonl --out kept.jsonl --eval rates.json --min-pass 0.05 --max-pass 0.95

  caravan audit problems.jsonl --out audit.jsonl
  caravan filter problems.jsonl --out kept.parquet --audit audit.jsonl --max-prompt-chars 2000"""

SAMPLE_HELP = f"""\
{CONFIG_HELP}

examples:
  caravan sample -c configs/demo.yaml                      two completions each of three held-out problems
  caravan sample -c configs/demo.yaml model.adapter=runs/demo/adapter --id ID --completions 8"""

PROFILE_LINES = "\n".join(f"  {name:<16} {profile.meaning}" for name, profile in PROFILES.items())
REWARD_HELP = f"""\
rewards (--reward [NAME][,key=value...]):
{PROFILE_LINES}
Keys: structural, type_check, compile and tests are weights, the most that each part earns, together at most 1;
min_code_lines, runaway_multiplier, degenerate_multiplier; and shown_assert_weight, 0 to 1, of an assert that
the examples of the statement give away."""

GRADE_HELP = f"""\
Each line of FILE is {{"id", "prompt", "tests", "completion"}} and, where known, "finish_reason" ("stop" or "length"); ids may
repeat. Each line of OUT, in the same order, holds id, line (of FILE), verdict, reward, terms, type_errors, syntax_error,
tests_passed, tests_total, asserts (the outcome of each), errors (each with its line), diagnostics, has_end_marker,
hit_length_limit, num_code_lines, degenerate and seconds. A row that cannot be read, or that the machine fails to grade, is
named with its line number and left out; the others are graded. The exit status is 1 where a row was left out.

{REWARD_HELP}

examples:
  caravan grade completions.jsonl --out grades.jsonl
  caravan grade completions.jsonl --out grades.jsonl --workers 8 --min-lines 1
  caravan grade completions.jsonl --out grades.jsonl --reward binary
  caravan grade completions.jsonl --out grades.jsonl --reward {SEED_PROFILE},tests=0.5,shown_assert_weight=0"""

REGRADE_HELP = f"""\
Scores what a run has stored under RUN/rollouts once more, from the facts alone: nothing is sampled, compiled or run, and the run
is not changed, so that it may go on meanwhile. Prints how mean reward, share of groups without signal and rank order within
groups would change. Without a NAME, the reward is that of the run with the given keys changed; without --reward, it is that of
the run, which must give what is stored.

{REWARD_HELP}

examples:
  caravan regrade runs/demo --reward binary
  caravan regrade runs/demo --reward shown_assert_weight=0
  caravan regrade runs/demo --reward {SEED_PROFILE},structural=0.1,type_check=0.4,compile=0.3,tests=0.2 --out new.parquet"""


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


REPLAY_HELP = """\
Trains once more from what a run has stored under RUN/rollouts, without samplers, graders or Ray, and compares the adapter with
the run's own. On the CPU a synchronous run is reached bit for bit. The exit status is 1 where the adapters differ.

examples:
  caravan replay runs/demo
  caravan replay runs/demo --out replayed-adapter"""

EXPORT_HELP = """\
OUT gets the adapter in PEFT format or, with --merge, a whole model that transformers and vLLM load as it is, and a model card
(README.md) with data, configuration, curve and evaluation. A merged model is compared, on completions of the run, with model and
adapter side by side: it may differ by 0.0001 nats per token in float32 and by 0.05 in bfloat16. Nothing leaves this machine
unless --push-to-hub says so.

examples:
  caravan export runs/demo demo-adapter
  caravan export runs/demo --step 40 --merge demo-model
  caravan export runs/demo --merge demo-model --dtype bfloat16 --push-to-hub me/ocaml-demo"""

SFT_HELP = f"""\
Teaches the model to write the reference solutions of the training problems, by TRL's SFTTrainer: the loss is that of the
completions alone. The held-out problems stay unseen, so that a run with the same data settings can be measured on them. OUT
becomes a whole model for model.path; without --full an adapter (learner.lora) is trained and added in, and kept in OUT/adapter.
Of the settings, those of model, data, the prompt (rollout) and the learner's lora, dtype, gpus, num_threads and
gradient_checkpointing count.

{CONFIG_HELP}

examples:
  caravan sft -c configs/qwen1.5b-1gpu.yaml --out qwen-ocaml model.path=Qwen/Qwen2.5-Coder-1.5B
  caravan sft -c configs/demo.yaml --out taught --full --steps 100 --learning-rate 3e-4"""

HEALTH_HELP = """\
Judges a run, finished or going on, by rules with the thresholds of the two training analyses: collapse, reward, passes, trends,
KL, entropy, gradient, truncation, hacking, the samplers against the learner. Each verdict has its evidence, its threshold with
the source, and what the source recommends. A folder of another trainer that has a learning.log is judged by that.

The exit status is 0 where all is well, 3 for warnings, 4 where the run should be stopped, 5 where it is too early to say.
`health.on_unhealthy` lets a run stop, or change its settings, by the same rules.

examples:
  caravan health runs/demo
  caravan health runs/demo --json"""

REPORT_HELP = """\
Writes OUT/report.html, one page that opens without a network: health, curves, outcomes and rewards over time, what changed on
the way, an epoch against the one before it, the hardest and slowest problems, and completions: the best, the worst, and those
that are suspected of earning without solving. Beside it report.md and the curves as PNG. The run may still be going on.

examples:
  caravan report runs/demo                                 into runs/demo/report
  caravan report runs/demo runs/warm --out compared"""

DASHBOARD_HELP = """\
Serves the report of a run as a page that keeps up with it, and a browser of its completions: by problem, outcome, reward, step
and text, and groups side by side. It reads RUN alone and never writes there, so that it works while the run goes on, after it,
and on a copy. On this machine alone unless --host says otherwise; from elsewhere, `ssh -L 8642:localhost:8642 MACHINE`.

examples:
  caravan dashboard runs/demo
  caravan dashboard runs/demo --port 0                     any port that is free"""

PLAN_HELP = f"""\
Says who would go where, what each GPU's memory would hold, which part of a step would be waited for, and what could be changed;
where something does not fit, it says by how much. Without --machine the Ray cluster is asked that RAY_ADDRESS names, or this
machine. Nothing is started.

--machine cpus=N[,gpus=N,gpu=KIND|gpu_gib=N][,count=N]: a machine to plan for, in place of those that are there; may be repeated.

{CONFIG_HELP}

examples:
  caravan plan -c configs/cluster.yaml --machine cpus=96,gpus=8,gpu=H100,count=2 --machine cpus=64,count=4
  caravan plan -c configs/qwen1.5b-1gpu.yaml --machine cpus=16,gpus=1,gpu_gib=24
  caravan plan -c configs/cluster.yaml num_samplers=4"""

SCALE_HELP = """\
Tells a run that is going on how many samplers and graders it should have. graders=N alone holds until the next call, or the end
of the run; with min_graders or max_graders the run scales on its own between them; so for samplers. Those that are to go end what
they have; new ones start as soon as the cluster has room, and its autoscaler is asked for it. Nothing is sampled or graded twice
or lost. A run that is started again goes by its configuration (num_samplers, min_samplers, max_samplers, num_graders, ...).

examples:
  caravan scale runs/warm graders=64
  caravan scale runs/warm samplers=4
  caravan scale runs/warm min_graders=4 max_graders=256"""

TRACE_HELP = """\
Writes when each completion was sampled and graded, each step learned and each policy published, as a Chrome trace: open it at
https://ui.perfetto.dev or chrome://tracing. The run may still be going on.

examples:
  caravan trace runs/demo                                  into runs/demo/trace.json"""


def run() -> NoReturn:
    """The ``caravan`` program."""
    code = main()
    if "ray" in sys.modules:
        # Threads of Ray 2.60 outlive ray.shutdown() and can crash in _raylet.so while Python takes its modules down: all the
        # work is done by then, but the exit code would say otherwise. So Python is not given the time.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit code: 0 done, 1 failed, 2 a wrong argument or setting, 130 interrupted."""
    options = _options(arguments)
    try:
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
    except KeyboardInterrupt:
        print("caravan: interrupted", file=sys.stderr)
        return INTERRUPTED


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """What was asked for. argparse takes positional arguments in one place only; settings may stand between options."""
    parser = _parser()
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

    def add(name: str, command: object, summary: str, epilog: str) -> argparse.ArgumentParser:
        one = commands.add_parser(
            name, help=summary, description=summary, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        one.set_defaults(command=command)
        return one

    train = add("train", _train, "train an adapter, or go on with a run that was interrupted", TRAIN_HELP)
    submit = add("submit", _submit, "train as a job of a Ray cluster, once it was asked whether it can", SUBMIT_HELP)
    submit.add_argument("-c", "--config", type=Path, required=True, metavar="FILE", help="a YAML file in this folder")
    submit.add_argument("settings", nargs="*", metavar="key=value", help="settings that win over the file")
    submit.add_argument(
        "--address", metavar="URL", help="of the cluster's dashboard (default: RAY_API_SERVER_ADDRESS, or this machine)"
    )
    submit.add_argument("--no-wait", action="store_true", help="do not follow the job's log")
    evaluate = add("eval", _eval, "measure a model or an adapter on the held-out problems", EVAL_HELP)
    sample = add("sample", _sample, "look at graded completions of a few problems", SAMPLE_HELP)
    plan = add("plan", _plan, "see whether a run fits a cluster, and what would be waited for", PLAN_HELP)
    plan.add_argument(
        "--machine", action="append", default=[], metavar="cpus=N,...", help="a machine to plan for; may be repeated"
    )
    for one in (train, evaluate, sample, plan):
        one.add_argument("-c", "--config", type=Path, metavar="FILE", help="a YAML file; configs/ has some")
        one.add_argument("settings", nargs="*", metavar="key=value", help="settings that win over the file")
    train.add_argument("--resume", type=Path, metavar="RUN", help="the folder of a run, whose configuration it goes by")
    evaluate.add_argument("--out", type=Path, metavar="FILE", help="write the figures, also those by problem, as JSON")
    evaluate.add_argument(
        "--on", choices=("held-out", "training", "all"), default="held-out", help="which problems (default: held-out)"
    )
    evaluate.add_argument("--base-check", action="store_true", help="whether the model solves enough to begin with")
    sample.add_argument(
        "--id", action="append", default=[], dest="ids", metavar="ID", help="a problem; may be repeated"
    )
    sample.add_argument("--problems", type=_count, default=3, metavar="N", help="without --id: how many (default 3)")
    sample.add_argument("--completions", type=_count, default=2, metavar="N", help="of each problem (default 2)")

    grade = add("grade", _grade, "grade a file of completions: no GPU, no cluster, no model", GRADE_HELP)
    grade.add_argument("file", type=Path, metavar="FILE.jsonl", help="the completions")
    grade.add_argument("--out", type=Path, required=True, metavar="OUT.jsonl", help="where the grades go")
    grade.add_argument("--workers", type=_count, metavar="N", help="programs graded at a time (default: the cores)")
    grade.add_argument(
        "--min-lines", type=int, metavar="N", help="code lines below which nothing is paid (default: the profile's)"
    )
    grade.add_argument("--reward", metavar="REWARD", help=f"what is paid for (default {SEED_PROFILE})")
    grade.add_argument(
        "--require-sandbox", action="store_true", help="refuse to grade where bubblewrap or seccomp does not stand"
    )

    regrade = add("regrade", _regrade, "score the completions of a run under another reward", REGRADE_HELP)
    regrade.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, finished or not")
    regrade.add_argument("--reward", metavar="REWARD", help="what is paid for (default: the run's own)")
    regrade.add_argument("--out", type=Path, metavar="FILE", help="old and new rewards, as .jsonl or .parquet")

    audit = add("audit", _audit, "find out which problems of a data set can be trusted", AUDIT_HELP)
    audit.add_argument(
        "dataset", metavar="DATASET", help="a CSV, JSONL or Parquet file, a Hugging Face id, or 'builtin'"
    )
    audit.add_argument("--out", type=Path, metavar="OUT", help="a row per problem, as .jsonl or .parquet")
    audit.add_argument("--workers", type=_count, metavar="N", help="problems audited at a time (default: the cores)")

    choose = add("filter", _filter, "keep the problems of a data set that are worth training on", FILTER_HELP)
    choose.add_argument("dataset", metavar="DATASET", help="as for audit")
    choose.add_argument("--out", type=Path, required=True, metavar="OUT", help="what is kept, as .jsonl or .parquet")
    choose.add_argument(
        "--eval", type=Path, metavar="FILE", dest="measured", help="pass rates, by `caravan eval --out`"
    )
    choose.add_argument("--min-pass", type=_share, default=0.0, metavar="P", help="lowest pass rate kept (default 0)")
    choose.add_argument("--max-pass", type=_share, default=1.0, metavar="P", help="highest pass rate kept (default 1)")
    choose.add_argument("--audit", type=Path, metavar="FILE", help="verdicts, by `caravan audit --out`")
    choose.add_argument("--max-prompt-chars", type=_count, metavar="N", help="longest prompt kept")

    compare = add("compare", _compare, "two evaluations, problem by problem, with a test", COMPARE_HELP)
    compare.add_argument("first", metavar="FIRST", help="a file of `caravan eval --out`, RUN, or RUN:NAME")
    compare.add_argument("second", metavar="SECOND", help="likewise")

    replay = add("replay", _replay, "train once more from the stored completions of a run", REPLAY_HELP)
    replay.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    replay.add_argument("--out", type=Path, metavar="FOLDER", help="where to keep the adapter, in PEFT format")

    sft = add("sft", _sft, "teach a model the reference solutions of problems, before training", SFT_HELP)
    sft.add_argument("-c", "--config", type=Path, metavar="FILE", help="a YAML file; configs/ has some")
    sft.add_argument("settings", nargs="*", metavar="key=value", help="settings that win over the file")
    sft.add_argument("--out", type=Path, required=True, metavar="OUT", help="an empty folder, or one that is made")
    sft.add_argument("--full", action="store_true", help="train all weights in place of an adapter")
    sft.add_argument("--epochs", type=_positive, default=1.0, metavar="E", help="passes over the pairs (default 1)")
    sft.add_argument("--steps", type=_count, metavar="N", help="optimizer steps, in place of --epochs")
    sft.add_argument("--batch-size", type=_count, default=16, metavar="N", help="pairs in a step (default 16)")
    sft.add_argument("--micro-batch-size", type=_count, default=4, metavar="N", help="pairs in a pass (default 4)")
    sft.add_argument("--learning-rate", type=_positive, default=1e-4, metavar="R", help="at its highest (default 1e-4)")
    sft.add_argument("--warmup-steps", type=int, default=10, metavar="N", help="of linear warm-up (default 10)")

    export = add("export", _export, "make a folder of a run's adapter, or of model and adapter in one", EXPORT_HELP)
    export.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, finished or not")
    export.add_argument("out", type=Path, metavar="OUT", help="an empty folder, or one that is made")
    export.add_argument("--step", type=_count, metavar="N", help="of a checkpoint (default: the last)")
    export.add_argument("--merge", action="store_true", help="add the adapter into the weights of the model")
    export.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="bfloat16",
        help="of the merged weights (default %(default)s)",
    )
    export.add_argument(
        "--push-to-hub", metavar="NAME", help="upload OUT to the Hugging Face hub, as a private repository"
    )

    health = add("health", _health, "judge a run by the rules of the training analyses", HEALTH_HELP)
    health.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, finished or not")
    health.add_argument("--json", action="store_true", help="one JSON object in place of the table")

    report = add("report", _report, "write a page about one run or several", REPORT_HELP)
    report.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the folder of a run, finished or not")
    report.add_argument("--out", type=Path, metavar="OUT", help="a folder (default: RUN/report)")

    dashboard = add("dashboard", _dashboard, "look at a run and its completions in the browser", DASHBOARD_HELP)
    dashboard.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, finished or not")
    dashboard.add_argument("--port", type=_port, default=8642, metavar="N", help="0: any (default %(default)s)")
    dashboard.add_argument("--host", default="127.0.0.1", metavar="H", help="where to listen (default %(default)s)")

    trace = add("trace", _trace, "draw where the time of a run went, for Perfetto", TRACE_HELP)
    trace.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, finished or not")
    trace.add_argument("--out", type=Path, metavar="FILE.json", help="where the trace goes (default: RUN/trace.json)")

    scale = add("scale", _scale, "change the number of samplers or graders of a run that is going on", SCALE_HELP)
    scale.add_argument("run", type=Path, metavar="RUN", help="the folder of the run")
    scale.add_argument("settings", nargs="+", metavar="key=N", help="samplers, graders, and min_ or max_ before either")

    add("keys", _keys, "list every setting with its default and meaning", "")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return number


def _train(options: argparse.Namespace) -> int:
    from cluster.config import load_config
    from cluster.resume import resumed_config
    from cluster.session import run_to_end
    from cluster.train import train

    if options.resume and options.config:
        raise ConfigError("--resume goes by the run's own configuration: leave out -c")
    config = (
        resumed_config(options.resume, options.settings)
        if options.resume
        else load_config(options.config, options.settings)
    )
    return run_to_end(lambda view: train(config, view))


def _submit(options: argparse.Namespace) -> int:
    from cluster.submit.command import submit_and_report

    return submit_and_report(options.config, options.settings, address=options.address, wait=not options.no_wait)


def _eval(options: argparse.Namespace) -> int:
    from cluster.config import load_config
    from cluster.session import run_to_end
    from cluster.tryout import evaluate

    config = load_config(options.config, options.settings)
    return run_to_end(lambda view: evaluate(config, view, options.out, on=options.on, base_check=options.base_check))


def _sample(options: argparse.Namespace) -> int:
    from cluster.config import load_config
    from cluster.session import run_to_end
    from cluster.tryout import sample

    config = load_config(options.config, options.settings)
    return run_to_end(lambda view: sample(config, view, options.ids, options.problems, options.completions))


def _grade(options: argparse.Namespace) -> int:
    from pydantic import ValidationError

    from grader.console import grade_with_progress
    from grader.reward_option import with_reward_option
    from grader.settings import GraderSettings

    settings = with_reward_option(options.reward, GraderSettings()) if options.reward is not None else GraderSettings()
    if options.min_lines is not None:
        if settings.min_code_lines not in (None, options.min_lines):
            raise ConfigError("--min-lines and min_code_lines of --reward say different things: give one of them")
        try:
            settings = GraderSettings.model_validate({**settings.model_dump(), "min_code_lines": options.min_lines})
        except ValidationError as error:
            raise ConfigError(f"--min-lines {options.min_lines}: {error.errors()[0]['msg']}") from None
    if options.require_sandbox:
        settings = settings.model_copy(update={"require_sandbox": True})
    return grade_with_progress(options.file, options.out, settings=settings, num_workers=options.workers)


def _regrade(options: argparse.Namespace) -> int:
    from cluster.regrade_report import regrade_and_report

    return regrade_and_report(options.run, options.reward, options.out)


def _replay(options: argparse.Namespace) -> int:
    from cluster.replay import replay_and_report

    return replay_and_report(options.run, options.out)


def _sft(options: argparse.Namespace) -> int:
    from cluster.config import load_config
    from cluster.sft import sft
    from learner.lessons import Schedule

    config = load_config(options.config, options.settings)
    schedule = Schedule(
        num_steps=options.steps,
        num_epochs=options.epochs,
        batch_size=options.batch_size,
        micro_batch_size=min(options.micro_batch_size, options.batch_size),
        learning_rate=options.learning_rate,
        num_warm_up_steps=options.warmup_steps,
        seed=config.run.seed,
    )
    return sft(config, options.out, schedule, full=options.full)


def _export(options: argparse.Namespace) -> int:
    from cluster.export import export_and_report

    return export_and_report(
        options.run,
        options.out,
        step=options.step,
        merge=options.merge,
        dtype=options.dtype,
        push_to_hub=options.push_to_hub,
    )


def _health(options: argparse.Namespace) -> int:
    from cluster.health.command import health_and_report

    return health_and_report(options.run, as_json=options.json)


def _report(options: argparse.Namespace) -> int:
    from cluster.report.write import write_report

    print(write_report(options.runs, options.out))
    return 0


def _dashboard(options: argparse.Namespace) -> int:
    from cluster.dashboard.command import serve

    return serve(options.run, options.host, options.port)


def _plan(options: argparse.Namespace) -> int:
    from cluster.config import load_config
    from cluster.placement import ray_cluster
    from cluster.plan.machines import machines_of, parse_machines
    from cluster.plan.report import plan_and_report

    config = load_config(options.config, options.settings)
    if options.machine:
        return plan_and_report(config, parse_machines(options.machine))
    with ray_cluster() as cluster:
        return plan_and_report(config, machines_of(cluster.nodes))


def _filter(options: argparse.Namespace) -> int:
    from cluster.problem_filter import Wanted, filter_and_report, read_pass_rates, read_passable

    if options.measured is None and (options.min_pass, options.max_pass) != (0.0, 1.0):
        raise ConfigError(
            "--min-pass and --max-pass need --eval FILE: pass rates are measured by `caravan eval --out FILE`"
        )
    wanted = Wanted(
        pass_rates=read_pass_rates(options.measured) if options.measured else None,
        min_pass=options.min_pass,
        max_pass=options.max_pass,
        passable=read_passable(options.audit) if options.audit else None,
        max_prompt_chars=options.max_prompt_chars,
    )
    return filter_and_report(options.dataset, options.out, wanted)


def _compare(options: argparse.Namespace) -> int:
    from cluster.paired import compare_and_report

    return compare_and_report(options.first, options.second)


def _trace(options: argparse.Namespace) -> int:
    from cluster.trace import write_trace

    out = options.out or options.run / "trace.json"
    num_spans = write_trace(options.run, out)
    print(f"{out}: {num_spans} spans; open it at https://ui.perfetto.dev")
    return 0


def _scale(options: argparse.Namespace) -> int:
    from cluster.scale import scale_and_report

    return scale_and_report(options.run, options.settings)


def _audit(options: argparse.Namespace) -> int:
    from cluster.audit_report import audit_and_report

    return audit_and_report(options.dataset, options.out, num_workers=options.workers)


def _keys(options: argparse.Namespace) -> int:  # noqa: ARG001
    from cluster.config import explain_keys

    print(explain_keys())
    return 0


if __name__ == "__main__":
    run()

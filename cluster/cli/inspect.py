"""Commands that look at a run."""

import argparse
from pathlib import Path

from cluster.cli.command import Command, port

HEALTH_HELP = """\
Judges a run, finished or going on, by rules with the thresholds of the two training analyses: collapse, reward, passes, trends,
KL, entropy, gradient, truncation, hacking, the samplers against the learner. Each verdict has its evidence, its threshold with
the source, and what the source recommends. A folder of another trainer that has a learning.log is judged by that.

The exit status is 0 where all is well, 3 for warnings, 4 where the run should be stopped, 5 where it is too early to say.
`health.on_unhealthy` lets a run stop, or change its settings, by the same rules.

examples:
  caravan health runs/demo
  caravan health runs/demo --json"""


def _health_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, finished or not")
    parser.add_argument("--json", action="store_true", help="one JSON object in place of the table")


def _health(options: argparse.Namespace) -> int:
    from cluster.health.command import health_and_report

    return health_and_report(options.run, as_json=options.json)


REPORT_HELP = """\
Writes OUT/report.html, one page that opens without a network: health, curves, outcomes and rewards over time, what changed on
the way, an epoch against the one before it, the hardest and slowest problems, and completions: the best, the worst, and those
that are suspected of earning without solving. Beside it report.md and the curves as PNG. The run may still be going on.

examples:
  caravan report runs/demo                                 into runs/demo/report
  caravan report runs/demo runs/warm --out compared"""


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the folder of a run, finished or not")
    parser.add_argument("--out", type=Path, metavar="OUT", help="a folder (default: RUN/report)")


def _report(options: argparse.Namespace) -> int:
    from cluster.analysis.report.write import write_report

    print(write_report(options.runs, options.out))
    return 0


DASHBOARD_HELP = """\
Serves the report of a run as a page that keeps up with it, and a browser of its completions: by problem, outcome, reward, step
and text, and groups side by side. It reads RUN alone and never writes there, so that it works while the run goes on, after it,
and on a copy. On this machine alone unless --host says otherwise; from elsewhere, `ssh -L 8642:localhost:8642 MACHINE`.

examples:
  caravan dashboard runs/demo
  caravan dashboard runs/demo --port 0                     any port that is free"""


def _dashboard_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, finished or not")
    parser.add_argument("--port", type=port, default=8642, metavar="N", help="0: any (default %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="where to listen (default %(default)s)")


def _dashboard(options: argparse.Namespace) -> int:
    from cluster.analysis.dashboard.command import serve

    return serve(options.run, options.host, options.port)


TRACE_HELP = """\
Writes when each completion was sampled and graded, each step learned and each policy published, as a Chrome trace: open it at
https://ui.perfetto.dev or chrome://tracing. The run may still be going on.

examples:
  caravan trace runs/demo                                  into runs/demo/trace.json"""


def _trace_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, finished or not")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where the trace goes (default: RUN/trace.json)")


def _trace(options: argparse.Namespace) -> int:
    from cluster.analysis.trace import write_trace

    out = options.out or options.run / "trace.json"
    num_spans = write_trace(options.run, out)
    print(f"{out}: {num_spans} spans; open it at https://ui.perfetto.dev")
    return 0


REPLAY_HELP = """\
Trains once more from what a run has stored under RUN/rollouts, without samplers, graders or Ray, and compares the adapter with
the run's own. On the CPU a synchronous run is reached bit for bit. The exit status is 1 where the adapters differ.

examples:
  caravan replay runs/demo
  caravan replay runs/demo --out replayed-adapter"""


def _replay_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to keep the adapter, in PEFT format")


def _replay(options: argparse.Namespace) -> int:
    from cluster.models.replay import replay_and_report

    return replay_and_report(options.run, options.out)


COMMANDS = (
    Command("health", "judge a run by the rules of the training analyses", HEALTH_HELP, _health_arguments, _health),
    Command("report", "write a page about one run or several", REPORT_HELP, _report_arguments, _report),
    Command(
        "dashboard",
        "look at a run and its completions in the browser",
        DASHBOARD_HELP,
        _dashboard_arguments,
        _dashboard,
    ),
    Command("trace", "draw where the time of a run went, for Perfetto", TRACE_HELP, _trace_arguments, _trace),
    Command("replay", "train once more from the stored completions of a run", REPLAY_HELP, _replay_arguments, _replay),
)

"""Commands that report on a run."""

import argparse
from pathlib import Path

from cluster.cli.command import Command, port

HEALTH_HELP = """\
Checks a run, finished or running, by rules with the thresholds of the two baseline analyses: collapse, reward, pass rate, trends,
KL, entropy, gradient, truncation, reward hacking, and the difference between samplers and learner. For each rule it prints the
evidence, the threshold, its source, and the change that the source recommends. RUN may also be the folder of another trainer with
a learning.log.

The exit status is 0 if the run is healthy, 3 for warnings, 4 if the run should be stopped, 5 if it has too few steps.
`health.on_unhealthy` makes a run stop or adjust its settings by the same rules.

examples:
  caravan health runs/demo
  caravan health runs/demo --json"""


def _health_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, finished or running")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")


def _health(options: argparse.Namespace) -> int:
    from cluster.health.command import print_health

    return print_health(options.run, as_json=options.json)


REPORT_HELP = """\
Writes OUT/report.html, one page that needs no network: health, curves, outcomes and rewards over time, changed settings, the last
two epochs compared, the hardest and slowest problems, and completions: the best, the worst, and those suspected of reward
hacking. OUT also gets report.md and the curves as PNG. The run may still be running.

examples:
  caravan report runs/demo                                 into runs/demo/report
  caravan report runs/demo runs/warm --out compared"""


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the folder of a run, finished or running")
    parser.add_argument("--out", type=Path, metavar="OUT", help="output folder (default: RUN/report)")


def _report(options: argparse.Namespace) -> int:
    from cluster.analysis.report.write import write_report

    print(write_report(options.runs, options.out))
    return 0


DASHBOARD_HELP = """\
Serves the report of a run as a live page, and a browser of its completions: by problem, outcome, reward, step and text, and by
group. It only reads RUN, so that it works during the run, after it, and on a copy. It listens on this machine only unless --host
is given. To open it from another machine, use a tunnel: `ssh -L 8642:localhost:8642 MACHINE`.

examples:
  caravan dashboard runs/demo
  caravan dashboard runs/demo --port 0                     any free port"""


def _dashboard_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, finished or running")
    parser.add_argument(
        "--port", type=port, default=8642, metavar="N", help="port, 0 for any free one (default %(default)s)"
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="address to listen on (default %(default)s)")


def _dashboard(options: argparse.Namespace) -> int:
    from cluster.analysis.dashboard.command import serve

    return serve(options.run, options.host, options.port)


TRACE_HELP = """\
Writes a timeline of sampling and grading (per completion), training steps and publishes as a Chrome trace, which
https://ui.perfetto.dev and chrome://tracing open. The run may still be running.

examples:
  caravan trace runs/demo                                  into runs/demo/trace.json"""


def _trace_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, finished or running")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="output file (default: RUN/trace.json)")


def _trace(options: argparse.Namespace) -> int:
    from cluster.analysis.trace import write_trace

    out = options.out or options.run / "trace.json"
    num_spans = write_trace(options.run, out)
    print(f"{out}: {num_spans} spans; open it at https://ui.perfetto.dev")
    return 0


REPLAY_HELP = """\
Trains again from the completions stored under RUN/rollouts, without samplers, graders or Ray, and compares the weights with the
run's. On the CPU a synchronous run is reproduced bit for bit. The exit status is 1 if the weights differ.

examples:
  caravan replay runs/demo
  caravan replay runs/demo --out replayed-adapter"""


def _replay_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="output folder of the weights")


def _replay(options: argparse.Namespace) -> int:
    from cluster.models.replay import replay_and_report

    return replay_and_report(options.run, options.out)


COMMANDS = (
    Command("health", "check a run by the rules of the baseline analyses", HEALTH_HELP, _health_arguments, _health),
    Command("report", "write a page about one run or several", REPORT_HELP, _report_arguments, _report),
    Command(
        "dashboard",
        "browse a run and its completions",
        DASHBOARD_HELP,
        _dashboard_arguments,
        _dashboard,
    ),
    Command("trace", "write a timeline of a run for Perfetto", TRACE_HELP, _trace_arguments, _trace),
    Command(
        "replay",
        "train again from the stored completions of a run, and compare",
        REPLAY_HELP,
        _replay_arguments,
        _replay,
    ),
)

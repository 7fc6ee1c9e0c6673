"""Commands that start a run and steer it, and say what can be set."""

import argparse
from pathlib import Path

from cluster.cli.command import CONFIG_HELP, Command, add_config, note
from cluster.errors import ConfigError

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
it under `branches`. A run knows its data by its content (data.jsonl): it may lie elsewhere (dataset=FILE). Where rows were added,
removed or changed, the run is refused unless --allow-changed-data is given.

The exit status is 6 where the run came to its end and an evaluation lost problems, at which samplers or graders failed: its
figures are of the others, and summary.json counts them (num_lost_problems). It is 4 where health.on_unhealthy ended the run."""


def _add_allow_changed_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-changed-data",
        action="store_true",
        help="resume a run although rows of its data were added, removed or changed: held-out problems stay held out, new rows "
        "are trained on",
    )


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--resume", type=Path, metavar="RUN", help="the folder of a run, whose configuration it goes by"
    )
    _add_allow_changed_data(parser)


def _train(options: argparse.Namespace) -> int:
    from cluster.config.load import load_config
    from cluster.run.resume import resumed_config
    from cluster.run.session import run_to_end
    from cluster.run.train import train

    if options.resume and options.config:
        raise ConfigError("--resume goes by the run's own configuration: leave out -c")
    config = (
        resumed_config(options.resume, options.settings)
        if options.resume
        else load_config(options.config, options.settings, log=note)
    )
    return run_to_end(lambda view: train(config, view, allow_changed_data=options.allow_changed_data))


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


def _submit_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, required=True)
    parser.add_argument(
        "--address", metavar="URL", help="of the cluster's dashboard (default: RAY_API_SERVER_ADDRESS, or this machine)"
    )
    parser.add_argument("--no-wait", action="store_true", help="do not follow the job's log")
    _add_allow_changed_data(parser)


def _submit(options: argparse.Namespace) -> int:
    from cluster.placement.submit.command import submit_and_report

    return submit_and_report(
        options.config,
        options.settings,
        address=options.address,
        wait=not options.no_wait,
        allow_changed_data=options.allow_changed_data,
    )


PLAN_HELP = f"""\
Says who would go where, what each GPU's memory would hold, which part of a step would be waited for, and what could be changed;
where something does not fit, it says by how much. Without --machine the Ray cluster is asked that RAY_ADDRESS or `ray start`
names; where neither does, Ray is started on this machine to ask it, and stopped again. No part of the run is started.

--machine cpus=N[,gpus=N,gpu=KIND|gpu_gib=N][,count=N]: a machine to plan for, in place of those that are there; may be repeated.

{CONFIG_HELP}

examples:
  caravan plan -c configs/cluster.yaml --machine cpus=96,gpus=8,gpu=H100,count=2 --machine cpus=64,count=4
  caravan plan -c configs/qwen1.5b-1gpu.yaml --machine cpus=16,gpus=1,gpu_gib=24
  caravan plan -c configs/cluster.yaml num_samplers=4"""


def _plan_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--machine", action="append", default=[], metavar="cpus=N,...", help="a machine to plan for; may be repeated"
    )


def _plan(options: argparse.Namespace) -> int:
    from cluster.config.load import load_config
    from cluster.placement.plan.machines import machines_of, parse_machines, this_machine
    from cluster.placement.plan.report import plan_and_report
    from cluster.placement.ray_address import find_cluster
    from cluster.placement.ray_cluster import ray_cluster

    config = load_config(options.config, options.settings, log=note)
    if options.machine:
        return plan_and_report(config, parse_machines(options.machine))
    if find_cluster(note) is None:
        return plan_and_report(config, [this_machine()])
    with ray_cluster(note) as cluster:
        return plan_and_report(config, machines_of(cluster.nodes))


SCALE_HELP = """\
Tells a run that is going on how many samplers and graders it should have. graders=N alone holds until the next call, or the end
of the run; with min_graders or max_graders the run scales on its own between them; so for samplers. Those that are to go end what
they have; new ones start as soon as the cluster has room, and its autoscaler is asked for it. Nothing is sampled or graded twice
or lost. A run that is started again goes by its configuration (num_samplers, min_samplers, max_samplers, num_graders, ...).

examples:
  caravan scale runs/warm graders=64
  caravan scale runs/warm samplers=4
  caravan scale runs/warm min_graders=4 max_graders=256"""


def _scale_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of the run")
    parser.add_argument(
        "settings", nargs="+", metavar="key=N", help="samplers, graders, and min_ or max_ before either"
    )


def _scale(options: argparse.Namespace) -> int:
    from cluster.placement.scale_requests import scale_and_report

    return scale_and_report(options.run, options.settings)


def _keys_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def _keys(options: argparse.Namespace) -> int:  # noqa: ARG001
    from cluster.cli.supervised import explain_variables
    from cluster.config.load import explain_keys

    print(explain_keys())
    print(f"\n{explain_variables()}")
    return 0


COMMANDS = (
    Command(
        "train", "train an adapter, or go on with a run that was interrupted", TRAIN_HELP, _train_arguments, _train
    ),
    Command(
        "submit",
        "train as a job of a Ray cluster, once it was asked whether it can",
        SUBMIT_HELP,
        _submit_arguments,
        _submit,
    ),
    Command(
        "plan", "see whether a run fits a cluster, and what would be waited for", PLAN_HELP, _plan_arguments, _plan
    ),
    Command(
        "scale",
        "change the number of samplers or graders of a run that is going on",
        SCALE_HELP,
        _scale_arguments,
        _scale,
    ),
    Command("keys", "list every setting with its default and meaning", "", _keys_arguments, _keys),
)

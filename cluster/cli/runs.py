"""Commands that start, plan, submit and scale runs, and list the settings."""

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

  caravan train --resume runs/warm                         resume the run of the previous example
  caravan train --resume runs/warm learning_rate=7e-6 temperature=1.2
  caravan train --resume runs/warm max_steps=200           a longer run, finished or not

Ctrl-C stops after the current step and saves a checkpoint. Repeating the command resumes the run from its newest checkpoint, as
--resume does. With --resume, key=value can change the length of the run and every setting that `schedule` can change; config.yaml
records these changes under `resume_overrides`. The data may be in another file (dataset=FILE) if its rows are the same: a run
compares them with its data.jsonl. It refuses added, removed or changed rows without --allow-changed-data.

The exit status is 4 if health.on_unhealthy ended the run. It is 6 if the run has finished, but samplers or graders failed on some
problems of an evaluation. The results of that evaluation cover the other problems; summary.json has num_lost_problems."""


def _add_allow_changed_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-changed-data",
        action="store_true",
        help="resume a run although rows of its data were added, removed or changed; held-out problems stay held out, and "
        "new rows are trained on",
    )


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--resume", type=Path, metavar="RUN", help="folder of the run to resume; its configuration is used"
    )
    _add_allow_changed_data(parser)


def _train(options: argparse.Namespace) -> int:
    from cluster.config.load import load_config
    from cluster.run.resume import resumed_config
    from cluster.run.session import run_to_end
    from cluster.run.train import train

    if options.resume and options.config:
        raise ConfigError("--resume uses the run's own configuration: leave out -c")
    config = (
        resumed_config(options.resume, options.settings)
        if options.resume
        else load_config(options.config, options.settings, log=note)
    )
    return run_to_end(lambda view: train(config, view, allow_changed_data=options.allow_changed_data))


SUBMIT_HELP = f"""\
{CONFIG_HELP}

Uploads this folder to the cluster with the runtime environment of ray_job.yaml. A job first runs `caravan check` without its
smoke run; a run that would fail is not submitted. Ctrl-C ends the output of the log; the run continues. `ray job stop` saves a
checkpoint and stops the run. Repeating the command resumes it. If the cluster requires a token, it is read from RAY_AUTH_TOKEN,
the file RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token.

The exit status is that of the run, or 130 if the run was stopped or Ctrl-C ended the output of its log.

examples:
  caravan submit -c configs/cluster.yaml run.folder=/data/runs --address http://localhost:8265
  caravan submit -c configs/cluster.yaml max_steps=200 --no-wait"""


def _submit_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser, required=True)
    parser.add_argument(
        "--address",
        metavar="URL",
        help="address of the cluster's dashboard (default: RAY_API_SERVER_ADDRESS, or this machine)",
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


CHECK_HELP = f"""\
Prints a table of what the run needs and what is there, with advice for everything that is not ok: the settings, model, data,
run folder and plan; and on each machine NVIDIA's driver, the GPUs and their compute capability, headers and compiler for GPU
kernels, package versions, the model, shared memory, disk space, OCaml and the sandbox. Then a smoke run trains one step on one
group of short completions with the run's own settings, in a temporary folder: it is sampled, graded, learned, published, verified
and saved. It takes as long as the engines need to start, and a few seconds more.

The machines are those of the Ray cluster of RAY_ADDRESS or `ray start`; without a cluster, this machine is checked. --address
makes the check a job of that cluster, with this folder uploaded as by `caravan submit`. `caravan submit` itself runs the check
without the smoke run, since the run would find the same a minute later.

The exit status is 1 if a check fails, 0 if there are only warnings, 130 after Ctrl-C.

{CONFIG_HELP}

examples:
  caravan check -c configs/qwen1.5b-1gpu.yaml
  caravan check -c configs/cluster.yaml --no-smoke
  caravan check -c configs/cluster.yaml --address http://localhost:8265"""


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--address", metavar="URL", help="address of a cluster's dashboard; needs -c")
    parser.add_argument("--no-smoke", action="store_true", help="skip the smoke run: nothing is started")


def _check(options: argparse.Namespace) -> int:
    from cluster.config.load import load_config
    from cluster.placement.submit import command
    from cluster.run import check

    smoke = not options.no_smoke
    if options.address is None:
        return check.check_and_report(load_config(options.config, options.settings, log=note), smoke=smoke)
    if options.config is None:
        raise ConfigError("--address: give the configuration file of the run with -c")
    return command.check_and_report(options.config, options.settings, address=options.address, smoke=smoke)


PLAN_HELP = f"""\
Prints the placement of each part, the use of GPU memory, the bottleneck of a step, and advice. A run that does not fit is refused
with the arithmetic. The exit status is 1 also if a part does not fit by estimate. No part of the run is started.

Without --machine the plan is for the Ray cluster of RAY_ADDRESS or `ray start`; if there is no cluster, it is for this machine.

--machine cpus=N[,gpus=N,gpu=KIND|gpu_gib=N][,count=N] describes a machine to plan for. It may be repeated; existing machines are
then ignored.

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
    from cluster.placement.gpu_facts import gpus_of_nodes
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
        return plan_and_report(config, machines_of(cluster.nodes, gpus_of_nodes(cluster.nodes)))


SCALE_HELP = """\
Changes the number of samplers and graders of a running run. graders=N fixes the number of graders until the next `caravan scale`
or the end of the run. With min_graders or max_graders the run chooses a number between these bounds. The settings of samplers
work in the same way. A removed replica finishes its work first, so no completion is lost or repeated. New replicas start when the
cluster has free resources; if it has none, its autoscaler is asked for machines. A resumed run uses the numbers of its
configuration.

examples:
  caravan scale runs/warm graders=64
  caravan scale runs/warm samplers=4
  caravan scale runs/warm min_graders=4 max_graders=256"""


def _scale_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of the run")
    parser.add_argument(
        "settings",
        nargs="+",
        metavar="key=N",
        help="samplers, graders, min_samplers, max_samplers, min_graders or max_graders",
    )


def _scale(options: argparse.Namespace) -> int:
    from cluster.placement.scale_requests import scale_and_report

    return scale_and_report(options.run, options.settings)


KEYS_HELP = """\
Each key can be set in a YAML file (nested or dotted) and as key=value on the command line. A name in brackets is the environment
variable that sets the key.

examples:
  caravan keys | less
  caravan keys | grep -A1 temperature"""


def _keys_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no arguments."""


def _keys(options: argparse.Namespace) -> int:  # noqa: ARG001
    from cluster.cli.supervised import explain_variables
    from cluster.config.load import explain_keys

    print(explain_keys())
    print(f"\n{explain_variables()}")
    return 0


COMMANDS = (
    Command("train", "train an adapter, or resume a run", TRAIN_HELP, _train_arguments, _train),
    Command(
        "submit",
        "train as a job of a Ray cluster, after checking the cluster",
        SUBMIT_HELP,
        _submit_arguments,
        _submit,
    ),
    Command("check", "check the machines for a run, and try one step of it", CHECK_HELP, _check_arguments, _check),
    Command(
        "plan", "check whether a run fits a cluster, and estimate its bottleneck", PLAN_HELP, _plan_arguments, _plan
    ),
    Command(
        "scale",
        "change the number of samplers or graders of a running run",
        SCALE_HELP,
        _scale_arguments,
        _scale,
    ),
    Command("keys", "list every setting with its default and meaning", KEYS_HELP, _keys_arguments, _keys),
)

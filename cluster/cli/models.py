"""Commands that evaluate, fine-tune and export models."""

import argparse
import os
from pathlib import Path

from cluster.cli.command import CONFIG_HELP, Command, add_config, count, note, positive
from cluster.cli.supervised import without_supervised
from cluster.errors import ConfigError

EVAL_HELP = f"""\
{CONFIG_HELP}

examples:
  caravan eval -c configs/demo.yaml                        the base model
  caravan eval -c configs/demo.yaml model.adapter=runs/demo/adapter --out result.json
  caravan eval -c configs/demo.yaml evaluation.greedy=true
  caravan eval -c configs/qwen1.5b-1gpu.yaml --base-check
  caravan eval -c configs/demo.yaml --on all num_problems=100000 --out rates.json

With greedy sampling (evaluation.greedy, top_k=1) all completions of a problem would be equal, so only one is sampled.

With --base-check the exit status is 3 if fewer than 20% of the completions pass, which is too few for training. It is 6 if
samplers or graders failed on some problems (lost_problems in the results); the results then cover the other problems."""


def _eval_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the results, also by problem, as JSON")
    parser.add_argument(
        "--on",
        choices=("held-out", "training", "all"),
        default="held-out",
        help="problems to evaluate on (default: held-out)",
    )
    parser.add_argument(
        "--base-check", action="store_true", help="check that the base model passes often enough to be trained"
    )


def _eval(options: argparse.Namespace) -> int:
    from cluster.config.load import load_config
    from cluster.run.evaluate import evaluate
    from cluster.run.session import run_to_end

    config = load_config(options.config, options.settings, log=note)
    return run_to_end(lambda view: evaluate(config, view, options.out, on=options.on, base_check=options.base_check))


SAMPLE_HELP = f"""\
{CONFIG_HELP}

examples:
  caravan sample -c configs/demo.yaml                      two completions each of three held-out problems
  caravan sample -c configs/demo.yaml model.adapter=runs/demo/adapter --id ID --completions 8

The exit status is 6 if samplers or graders failed on some problems."""


def _sample_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--id", action="append", default=[], dest="ids", metavar="ID", help="id of a problem; may be repeated"
    )
    parser.add_argument(
        "--problems", type=count, default=3, metavar="N", help="number of problems without --id (default 3)"
    )
    parser.add_argument("--completions", type=count, default=2, metavar="N", help="completions per problem (default 2)")


def _sample(options: argparse.Namespace) -> int:
    from cluster.config.load import load_config
    from cluster.run.evaluate import sample
    from cluster.run.session import run_to_end

    config = load_config(options.config, options.settings, log=note)
    return run_to_end(lambda view: sample(config, view, options.ids, options.problems, options.completions))


PROMPTS_HELP = f"""\
Prints the prompt of a problem exactly as the model reads it: the text of its tokens with special tokens (a terminal shows these
inverted), their number, and the begin-of-text token. Then what ends a completion: stop strings, end-of-sequence tokens, length.
Adjustments for the tokenizer and its chat template are logged as in a run. Nothing is sampled, and no weights are loaded.

The prompt settings are those of train, eval, sample and sft. With model.adapter=RUN/adapter they are those of the run.

{CONFIG_HELP}

examples:
  caravan prompts -c configs/qwen1.5b-1gpu.yaml            the first problem, and the lengths of all prompts
  caravan prompts -c configs/demo.yaml --problem ID
  caravan prompts model.path=Qwen/Qwen3-1.7B chat_template_kwargs.enable_thinking=false
  caravan prompts -c configs/demo.yaml prompt.template=my.jinja prompt.few_shot=examples.jsonl
  caravan prompts -c runs/demo/config.yaml                 the prompts of a run"""


def _prompts_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--problem", action="append", default=[], dest="ids", metavar="ID", help="id of a problem; may be repeated"
    )


def _prompts(options: argparse.Namespace) -> int:
    from cluster.config.load import load_config
    from cluster.console import View
    from cluster.run.show_prompts import show_prompts

    return show_prompts(load_config(options.config, options.settings, log=note), options.ids, View())


COMPARE_HELP = """\
Compares two evaluations of the same problems, with the significance of the difference: 95% intervals by bootstrap over problems,
and a paired sign-flip test. Each evaluation is a file of `caravan eval --out`, RUN (its last evaluation), or RUN:NAME with a name
of RUN/evaluation.jsonl: before, after, or "step 40" (evaluation.at_checkpoints).

examples:
  caravan compare runs/demo:before runs/demo:after
  caravan compare runs/demo runs/warm
  caravan compare base.json trained.json"""


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("first", metavar="FIRST", help="a file of `caravan eval --out`, RUN, or RUN:NAME")
    parser.add_argument("second", metavar="SECOND", help="the evaluation to compare with, in the same form")


def _compare(options: argparse.Namespace) -> int:
    from cluster.analysis.compare import compare_and_report

    return compare_and_report(options.first, options.second)


SFT_HELP = f"""\
Fine-tunes the model on the reference solutions of the training problems, with TRL's SFTTrainer; the loss is computed on the
completions only. It does not use the held-out problems, so that a run with the same data settings can be evaluated on them. OUT
becomes a complete model for model.path. Without --full an adapter (learner.lora) is trained and merged, and kept in OUT/adapter.

OUT/sft.log has a line per step. Checkpoints are in OUT/training until the model is complete. Ctrl-C saves a checkpoint. Repeating
the command after Ctrl-C, a crash or a full disk resumes from the newest checkpoint, with the same result as without interruption.

On the CPU, models of 20 million parameters or more are trained with one thread per usable core, and smaller models with a single
thread; learner.num_threads overrides this. These settings apply: model, data, prompt, rollout.max_prompt_tokens, and the lora,
quantization, dtype, cpus, gpus, num_threads and gradient_checkpointing of the learner.

With --address it runs as a job of that cluster, with this folder uploaded as by `caravan submit`: on a node with learner.cpus
and learner.gpus free, by default a whole GPU if the cluster has one. OUT must be an absolute path, on a disk that nodes share.

{CONFIG_HELP}

examples:
  caravan sft -c configs/qwen1.5b-1gpu.yaml --out qwen-ocaml model.path=Qwen/Qwen2.5-Coder-1.5B
  caravan sft -c configs/demo.yaml --out taught --full --steps 100 --learning-rate 3e-4
  caravan sft -c configs/cluster.yaml --address http://localhost:8265 --out /shared/warm"""


def _sft_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="OUT",
        help="a new or empty folder, or that of an interrupted `caravan sft`",
    )
    parser.add_argument("--full", action="store_true", help="train all weights instead of an adapter")
    parser.add_argument(
        "--epochs", type=positive, default=1.0, metavar="E", help="passes over the examples (default 1)"
    )
    parser.add_argument("--steps", type=count, metavar="N", help="optimizer steps, instead of --epochs")
    parser.add_argument("--batch-size", type=count, default=16, metavar="N", help="examples per step (default 16)")
    parser.add_argument(
        "--micro-batch-size", type=count, default=4, metavar="N", help="examples per forward pass (default 4)"
    )
    parser.add_argument(
        "--learning-rate", type=positive, default=1e-4, metavar="R", help="peak learning rate (default 1e-4)"
    )
    parser.add_argument(
        "--warmup-steps", type=int, default=10, metavar="N", help="steps of linear warm-up (default 10)"
    )
    parser.add_argument(
        "--save-steps", type=count, default=100, metavar="N", help="steps between checkpoints (default %(default)s)"
    )
    parser.add_argument(
        "--keep", type=count, default=1, metavar="N", help="number of newest checkpoints to keep (default %(default)s)"
    )
    parser.add_argument("--address", metavar="URL", help="run as a job of the cluster with this dashboard address")
    parser.add_argument("--no-wait", action="store_true", help="with --address: do not follow the job's log")


def _sft_options(options: argparse.Namespace) -> list[str]:
    """The options of the same command in a job: all but those of the submission."""
    values = {
        "--epochs": options.epochs,
        "--steps": options.steps,
        "--batch-size": options.batch_size,
        "--micro-batch-size": options.micro_batch_size,
        "--learning-rate": options.learning_rate,
        "--warmup-steps": options.warmup_steps,
        "--save-steps": options.save_steps,
        "--keep": options.keep,
    }
    given = [f"{name}={value}" for name, value in values.items() if value is not None]
    return ["--full", *given] if options.full else given


def _sft(options: argparse.Namespace) -> int:
    from cluster.config.load import load_config
    from cluster.models.sft import SftJob, sft
    from learner.sft.examples import SftSchedule

    config = load_config(options.config, options.settings, without_supervised(os.environ), log=note)
    if options.address is not None:
        from cluster.placement.submit.sft_job import submit_sft

        return submit_sft(
            config,
            config_file=options.config,
            settings=options.settings,
            options=_sft_options(options),
            out=options.out,
            address=options.address,
            wait=not options.no_wait,
        )
    if options.no_wait:
        raise ConfigError("--no-wait has no effect without --address")
    schedule = SftSchedule(
        num_steps=options.steps,
        num_epochs=options.epochs,
        batch_size=options.batch_size,
        micro_batch_size=min(options.micro_batch_size, options.batch_size),
        learning_rate=options.learning_rate,
        num_warm_up_steps=options.warmup_steps,
        seed=config.run.seed,
    )
    job = SftJob(
        config=config,
        schedule=schedule,
        full=options.full,
        save_every_steps=options.save_steps,
        keep=options.keep,
    )
    return sft(job, options.out)


EXPORT_HELP = """\
Writes to OUT the adapter in PEFT format or, with --merge, a complete model that transformers and vLLM load directly; the
tokenizer with its chat template; and a model card (README.md) with data, configuration, curve and evaluation. A run with
learner.method=full is always exported as a complete model. A complete model is compared with the trained one on completions of
the run; the tolerance is 0.0001 nats per token in float32 and 0.05 in bfloat16. OUT contains no path of this machine: the name
of a base model in a folder is --base-name, by default the folder's name. Nothing is uploaded without --push-to-hub.

examples:
  caravan export runs/demo demo-adapter
  caravan export runs/demo --step 40 --merge demo-model
  caravan export runs/demo --merge demo-model --dtype bfloat16 --push-to-hub me/ocaml-demo"""


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, finished or not")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new or empty folder")
    parser.add_argument("--step", type=count, metavar="N", help="step of a checkpoint (default: the last)")
    parser.add_argument("--merge", action="store_true", help="merge the adapter into the weights of the base model")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="precision of a whole model (default bfloat16); for an adapter only with --merge",
    )
    parser.add_argument(
        "--base-name",
        metavar="NAME",
        help="public name of the base model, for example its id on the hub (default: from model.path)",
    )
    parser.add_argument(
        "--push-to-hub", metavar="NAME", help="upload OUT to the Hugging Face hub as a private repository"
    )


def _export(options: argparse.Namespace) -> int:
    from cluster.models.export import export_and_report

    return export_and_report(
        options.run,
        options.out,
        step=options.step,
        merge=options.merge,
        dtype=options.dtype,
        push_to_hub=options.push_to_hub,
        base_name=options.base_name,
    )


COMMANDS = (
    Command("eval", "evaluate a model or an adapter on the held-out problems", EVAL_HELP, _eval_arguments, _eval),
    Command("prompts", "print prompts as the model reads them", PROMPTS_HELP, _prompts_arguments, _prompts),
    Command("sample", "show graded completions of a few problems", SAMPLE_HELP, _sample_arguments, _sample),
    Command(
        "compare",
        "compare two evaluations, problem by problem",
        COMPARE_HELP,
        _compare_arguments,
        _compare,
    ),
    Command("sft", "fine-tune a model on the reference solutions, before training", SFT_HELP, _sft_arguments, _sft),
    Command(
        "export",
        "export the adapter of a run, or the merged model",
        EXPORT_HELP,
        _export_arguments,
        _export,
    ),
)

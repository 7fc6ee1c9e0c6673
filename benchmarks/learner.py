"""``make bench-learner``: one optimizer step of the learner compared with one of TRL's GRPOTrainer on the same batch and model.

Both take LoRA steps on the same loss (the benchmark checks this), without gradient checkpointing, in micro-batches with the same
limit of padded tokens. Each runs in its own process, and they take turns. Tokens per second are completion tokens in the fastest
step. Memory is the largest resident set of the process on the CPU, and torch's largest allocation on a GPU. The last table
measures the learner alone with other ``learner.micro_batch_tokens``, on uneven lengths; it is the basis of the default.

The model is a random Qwen2 of 9 million parameters, or ``--model``.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.contestants import Contestant, ContestError
from benchmarks.harness import Log, measure_and_print, option_parser, rotated
from benchmarks.learner_contestants import Work, caravan, make_groups, plain_trl
from cluster.config.model_path import tiny_model_path
from learner.lora_settings import LoraSettings
from learner.settings import LearnerSettings

CONTESTANTS: Mapping[str, Callable[..., None]] = {"TRL": plain_trl, "Caravan": caravan}
TURN_SECONDS = 1800.0
MAX_LOSS_DIFFERENCE = {"float32": 1e-4, "bfloat16": 2e-2}


def make_model(folder: Path) -> int:
    """Write a random Qwen2 with the tiny model's tokenizer to a folder. Returns its vocabulary size."""
    import torch
    from transformers import AutoTokenizer

    from learner.sft.warm_start import Shape, fresh_model

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    torch.manual_seed(0)
    shape = Shape(
        vocab_size=16_384,
        hidden_size=256,
        num_layers=6,
        num_heads=4,
        num_kv_heads=2,
        intermediate_size=768,
        max_position_embeddings=2048,
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
    )
    fresh_model(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return shape.vocab_size


def contest(contestants: Mapping[str, tuple[Callable[..., None], Work]], num_turns: int, logs: Path) -> dict[str, Any]:
    """Run alternating turns. Returns each contestant's best measurements."""
    started: list[Contestant] = []
    turns: dict[str, list[Mapping[str, Any]]] = {name: [] for name in contestants}
    try:
        for name, (main, work) in contestants.items():
            started.append(Contestant(name, main, work, log=logs / f"{name}.log"))
            started[-1].wait_until_ready()
        for turn in range(num_turns):
            for contestant in rotated(started, turn):
                turns[contestant.name].append(contestant.run_turn(TURN_SECONDS))
    finally:
        for contestant in started:
            contestant.close()
    found = {}
    for name, (_, work) in contestants.items():
        num_tokens = sum(len(completion.token_ids) for group in work.groups for completion in group.completions)
        wall, cpu = (min(seconds for turn in turns[name] for seconds in turn[clock]) for clock in ("wall", "cpu"))
        found[name] = {
            "tokens_per_second": num_tokens / wall,
            "tokens_per_cpu_second": num_tokens / cpu,
            "peak_mib": max(turn["peak_mib"] for turn in turns[name]),
            "loaded_mib": turns[name][0]["loaded_mib"],
            "padding_share": turns[name][0]["padding_share"],
            "first_loss": turns[name][0]["losses"][0],
        }
    return found


def run(options: argparse.Namespace, log: Log) -> dict[str, Any]:
    """Measure and return the result."""
    scratch = Path(tempfile.mkdtemp(prefix="bench-learner-"))
    model, vocabulary = options.model, options.vocabulary
    if model is None:
        model = str(scratch / "model")
        vocabulary = make_model(Path(model))
    dtype = "bfloat16" if options.gpu else "float32"

    def work(lengths: str, micro_batch_tokens: int) -> Work:
        return Work(
            model=model,
            settings=LearnerSettings(
                lora=LoraSettings(dropout=0.0),
                micro_batch_tokens=micro_batch_tokens,
                gpus=1.0 if options.gpu else 0.0,
                dtype=dtype,
                num_threads=options.threads,
            ),
            groups=make_groups(
                num_groups=options.groups,
                group_size=options.group_size,
                vocabulary=vocabulary,
                uneven=lengths == "uneven",
            ),
            num_steps=options.steps,
            scratch=scratch,
        )

    found: dict[str, Any] = {}
    for lengths in ("uneven", "even"):
        log(f"{lengths} lengths, both contestants in alternating turns")
        contestants = {name: (main, work(lengths, options.micro_batch_tokens)) for name, main in CONTESTANTS.items()}
        both = found[lengths] = contest(contestants, options.turns, scratch)
        losses = [both[name]["first_loss"] for name in CONTESTANTS]
        if abs(losses[0] - losses[1]) > MAX_LOSS_DIFFERENCE[dtype]:
            raise ContestError(f"{lengths} lengths: the losses of the first step differ: {losses}")
        clock = "tokens_per_second" if options.gpu else "tokens_per_cpu_second"
        both["speedup"] = both["Caravan"][clock] / both["TRL"][clock]
        both["wall_speedup"] = both["Caravan"]["tokens_per_second"] / both["TRL"]["tokens_per_second"]
    found["micro_batch_tokens"] = {}
    for size in options.sizes:
        log(f"micro-batches of {size} padded tokens")
        name = f"{size}"
        found["micro_batch_tokens"][name] = contest({name: (caravan, work("uneven", size))}, 1, scratch)[name]
    return {
        **found,
        "machine": {"cores": os.cpu_count(), "threads": options.threads, "gpu": options.gpu, "dtype": dtype},
        "model": options.model or "random Qwen2, 9M",
        "batch": {name: getattr(options, name) for name in ("groups", "group_size", "micro_batch_tokens")},
    }


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a result."""
    batch = found["batch"]
    steps = Table(title=f"One step on {batch['groups']} x {batch['group_size']} completions ({found['model']})")
    columns = ("", "tokens/s", "tokens/CPU s", "padding", "peak MiB", "without model")
    sizes = Table(title="The learner by learner.micro_batch_tokens, uneven lengths")
    for table in (steps, sizes):
        for name in columns:
            table.add_column(name, justify="right" if name else "left")
    for lengths in ("uneven", "even"):
        for name in CONTESTANTS:
            steps.add_row(f"{lengths}: {name}", *_cells(found[lengths][name]))
        row = found[lengths]
        steps.add_row("speedup", f"{row['wall_speedup']:.2f}x", f"{row['speedup']:.2f}x", "", "", "", end_section=True)
    for name, row in found["micro_batch_tokens"].items():
        sizes.add_row(name, *_cells(row))
    return [steps, sizes]


def _cells(row: Mapping[str, float]) -> Sequence[str]:
    return (
        f"{row['tokens_per_second']:,.0f}",
        f"{row['tokens_per_cpu_second']:,.0f}",
        f"{row['padding_share']:.0%}",
        f"{row['peak_mib']:,.0f}",
        f"{row['peak_mib'] - row['loaded_mib']:,.0f}",
    )


def main() -> None:
    """Run the command."""
    parser = option_parser("bench-learner", __doc__)
    parser.add_argument("--model", metavar="MODEL", help="folder or Hugging Face id (default: a random model)")
    parser.add_argument(
        "--vocabulary", type=int, default=1000, help="with --model: upper bound of the random token ids"
    )
    parser.add_argument("--gpu", action="store_true", help="use a GPU, in bfloat16")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU (default 1)")
    parser.add_argument("--groups", type=int, default=4, help="groups per step (default 4)")
    parser.add_argument("--group-size", type=int, default=8, help="completions per group (default 8)")
    parser.add_argument("--micro-batch-tokens", type=int, default=2048, help="padded tokens at a time (default 2048)")
    parser.add_argument("--quick", action="store_true", help="one turn of one step, no other sizes")
    options = parser.parse_args()
    options.turns, options.steps = (1, 1) if options.quick else (3, 1)
    options.sizes = () if options.quick else (512, 1024, 2048, 4096, 8192)
    measure_and_print(lambda log: run(options, log), tables)


if __name__ == "__main__":
    main()

"""``make bench-publish``: largest gap between tokens while an engine loads and compares an adapter.

A model of random weights in the shape of Qwen2.5-0.5B, with half of its layers, samples on the CPU; its requests have no adapter,
so that steps are short. Each turn samples undisturbed, then loads an adapter and compares its bound weights with the files. With
``--before``, the same turns also run with the code of another folder:

    git worktree add /tmp/before 79406f6 && make bench-publish OPTIONS="--before /tmp/before"
"""

import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.contestants import Contestant, Link
from benchmarks.harness import Log, measure_and_print, option_parser, ratios_by_round, rotated

# No module of Caravan is imported here: the process of a contestant imports those of its folder.
HERE = Path(__file__).parents[1]
SHAPE = {
    "vocab_size": 1024,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 12,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "eos_token_id": 0,
    "pad_token_id": 1,
    "bos_token_id": None,
}
RANK = 64
NUM_RUNNING = 8
NUM_TOKENS = 1900  # of a completion: more than are sampled in a turn
UNDISTURBED_SECONDS = 2.0
TURN_SECONDS = 300.0
STAGES = ("undisturbed", "load", "compare")


def make_model(folder: Path) -> None:
    """Write the model, with the tokenizer of the built-in model, and two adapters, ``adapter-0`` and ``adapter-1``."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from cluster.config.model_path import tiny_model_path

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **SHAPE))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model_path()).save_pretrained(folder)
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned = get_peft_model(model, lora)
    for number in range(2):
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter.data, std=1e-3)
        tuned.save_pretrained(folder / f"adapter-{number}")


def publishing(link: Link, code: Path, model: Path) -> None:
    """Serve turns on an engine of the code in a folder."""
    sys.path.insert(0, str(code))  # the engine's process is started with the same path
    main: Any = sys.modules["__main__"]  # without the next line, that process looks for this file in the folder
    main.__spec__ = main.__file__ = None
    asyncio.run(_publishing(link, model))


async def _publishing(link: Link, model: Path) -> None:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    from rollout.engine import Engine
    from rollout.settings import RolloutSettings
    from rollout.weight_sync import Adapter

    settings = RolloutSettings(
        max_prompt_tokens=64,
        max_completion_tokens=NUM_TOKENS,
        max_concurrent_requests=NUM_RUNNING,
        enforce_eager=True,
        weight_sync_mode="versions",
    )
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as sockets:
        engine = await Engine.start(
            settings, model=str(model), lora_rank=RANK, lora_targets=(), max_staleness=1, sockets=Path(sockets)
        )
        moments: list[float] = []  # times at which tokens arrive
        started = asyncio.Event()  # all requests of a turn are prefilled
        params = SamplingParams(
            temperature=1.0, max_tokens=NUM_TOKENS, ignore_eos=True, output_kind=RequestOutputKind.DELTA
        )

        async def sample(number: int) -> None:
            prompt = {"prompt_token_ids": list(range(2, 34))}
            async for _ in engine._engine.generate(prompt, params, request_id=f"{time.monotonic()}-{number}"):
                moments.append(time.monotonic())
                if len(moments) >= 4 * NUM_RUNNING:
                    started.set()

        async def turn(version: int) -> dict[str, float]:
            adapter = Adapter(version=version, slot=version, folder=model / f"adapter-{version % 2}")
            moments.clear()
            started.clear()
            requests = [asyncio.create_task(sample(number)) for number in range(NUM_RUNNING)]
            await started.wait()
            bounds = [time.monotonic()]
            await asyncio.sleep(UNDISTURBED_SECONDS)
            bounds.append(time.monotonic())
            await engine.load(adapter)
            bounds.append(time.monotonic())
            bound = await engine.bound(adapter)
            bounds.append(time.monotonic())
            await asyncio.sleep(UNDISTURBED_SECONDS / 4)
            for request in requests:
                request.cancel()
            await asyncio.gather(*requests, return_exceptions=True)
            await engine.drop(adapter)
            if not bound.bound or bound.differing:
                raise RuntimeError(f"the comparison is wrong: {bound}")
            return dict(zip(STAGES, largest_gaps(moments, bounds), strict=True))

        await turn(1)  # the first turn compiles and allocates
        link.send({})
        version = 2
        while (await asyncio.to_thread(link.receive)) is not None:
            link.send(await turn(version))
            version += 1
        engine.shutdown()


def largest_gaps(moments: Sequence[float], bounds: Sequence[float]) -> list[float]:
    """Return for each stage, from one bound to the next, the largest gap between two moments that overlaps it, in seconds."""
    gaps = list(itertools.pairwise(moments))
    return [
        max((end - begin for begin, end in gaps if end > start and begin < stop), default=0.0)
        for start, stop in itertools.pairwise(bounds)
    ]


def run(before: Path | None, num_rounds: int, log: Log) -> dict[str, Any]:
    """Measure and return the result."""
    folder = Path(tempfile.mkdtemp(prefix="bench-publish-"))  # the logs are kept for failures
    log("making a model")
    make_model(folder / "model")
    codes = {"after": HERE} if before is None else {"before": before.resolve(), "after": HERE}
    measured: dict[str, list[Mapping[str, float]]] = {name: [] for name in codes}
    contestants = []
    try:
        for name, code in codes.items():
            log(f"starting the engine: {name}")
            contestants.append(Contestant(name, publishing, code, folder / "model", log=folder / f"{name}.log"))
            contestants[-1].wait_until_ready()
        for number in range(num_rounds):
            log(f"round {number + 1} of {num_rounds}")
            for contestant in rotated(contestants, number):
                measured[contestant.name].append(contestant.run_turn(TURN_SECONDS))
    finally:
        for contestant in contestants:
            contestant.close()
    found: dict[str, Any] = {
        name: {f"{stage}_ms": 1e3 * statistics.median(turn[stage] for turn in turns) for stage in STAGES}
        for name, turns in measured.items()
    }
    if before is not None:
        by_round = [[turn["compare"] for turn in measured[name]] for name in ("after", "before")]
        found["compare_ratio"] = statistics.median(ratios_by_round(by_round[0], by_round[1]))
    return {**found, "rounds": num_rounds, "logs": str(folder)}


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Return the table of a result."""
    table = Table(title=f"Largest gap between tokens, {NUM_RUNNING} requests: milliseconds, median over rounds")
    for name in ("", *STAGES):
        table.add_column(name, justify="right" if name else "left")
    for name in ("before", "after"):
        if name in found:
            table.add_row(name, *(f"{found[name][f'{stage}_ms']:.0f}" for stage in STAGES))
    return [table]


def main() -> None:
    """Run the command."""
    parser = option_parser("bench-publish", __doc__)
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="an older version to compare with")
    parser.add_argument("--rounds", type=int, default=8, metavar="N", help="turns of each version")
    options = parser.parse_args()
    measure_and_print(lambda log: run(options.before, options.rounds, log), tables)


if __name__ == "__main__":
    main()

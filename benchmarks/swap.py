"""``make bench-swap``: cost of loading a new policy, and of several live policies, for a sampler.

1. Seconds from a publish until the sampler serves the verified policy, in each ``rollout.weight_sync_mode``, while the sampler
   is idle and while it samples; and tokens per second with and without weight syncs.
2. Seconds of an engine step with completions under 1, 2 and 4 adapters at a time.

On the tiny model, or any other: ``OPTIONS="model.path=FOLDER rollout.gpus_per_sampler=1 rollout.dtype=bfloat16"``.
"""

import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.contestants import Contestant, Link
from benchmarks.harness import Log, measure_and_print, option_parser, percentile
from benchmarks.rollout import CONFIG
from benchmarks.sampling_contestants import SamplingSettings, in_a_process, make_adapter, plain_vllm, policy_from
from cluster.config.load import load_config
from cluster.config.model_path import model_path
from cluster.console import View
from cluster.run.loading import load_and_render
from cluster.types import GroupRequest, Prompt, Sampling, WeightSync

MODES = ("versions", "in_flight", "merged")
NUM_LIVE = (1, 2, 4)
NUM_RUNNING = 32
NUM_GROUPS = 6  # concurrent groups, enough to keep an engine busy
TURN_SECONDS = 600.0
SECONDS_BETWEEN_SYNCS = 1.0


def sync_weights(link: Link, settings: SamplingSettings, prompts: Sequence[Prompt], group_size: int) -> None:
    """Run turns that publish policies in one weight sync mode, and time each weight sync."""
    asyncio.run(_sync_weights(link, settings, prompts, group_size))


async def _sync_weights(link: Link, settings: SamplingSettings, prompts: Sequence[Prompt], group_size: int) -> None:
    from cluster.placement.ray_cluster import ray_cluster
    from rollout.pool import RaySamplerPool

    os.environ["RAY_ADDRESS"] = "local"  # its own Ray, independent of others on this machine
    with ray_cluster(print):
        pool = RaySamplerPool(
            settings.rollout, model=settings.model, lora_rank=settings.lora_rank, max_staleness=settings.max_staleness
        )
        try:
            await pool.start()
            link.send({})
            numbers, adapters = itertools.count(1), itertools.cycle(settings.adapters)

            async def sync() -> WeightSync:
                (weight_sync,) = await pool.publish(policy_from(next(adapters), next(numbers)))
                return weight_sync

            while (turn := await asyncio.to_thread(link.receive)) is not None:
                num_syncs = turn["num_syncs"]
                await sync()  # the first weight sync compiles and allocates
                idle = [(await sync()).seconds for _ in range(num_syncs)]
                seconds = num_syncs * SECONDS_BETWEEN_SYNCS
                busy: list[float] = []
                async with _sampling_in_background(pool, prompts, group_size, settings) as tokens:
                    await asyncio.sleep(SECONDS_BETWEEN_SYNCS)
                    before, began = tokens(), time.monotonic()
                    await asyncio.sleep(seconds)
                    undisturbed = (tokens() - before) / (time.monotonic() - began)
                    before, began = tokens(), time.monotonic()
                    for _ in range(num_syncs):
                        busy.append((await sync()).seconds)
                        await asyncio.sleep(SECONDS_BETWEEN_SYNCS)
                    disturbed = (tokens() - before) / (time.monotonic() - began)
                link.send({"idle": idle, "busy": busy, "undisturbed": undisturbed, "disturbed": disturbed})
        finally:
            await pool.close()


@asynccontextmanager
async def _sampling_in_background(
    pool: Any, prompts: Sequence[Prompt], group_size: int, settings: SamplingSettings
) -> AsyncIterator[Callable[[], int]]:
    """Keep ``NUM_GROUPS`` groups running within the block. Yields a function that returns the number of tokens so far."""
    numbers, num_tokens = itertools.count(), 0
    sampling = Sampling(temperature=1.0, max_completion_tokens=settings.rollout.max_completion_tokens)

    async def keep_sampling() -> None:
        nonlocal num_tokens
        while True:
            number = next(numbers)
            request = GroupRequest(
                group_id=f"g{number:07d}",
                prompt=prompts[number % len(prompts)],
                group_size=group_size,
                sampling=sampling,
                seed=number * group_size,
            )
            async with aclosing(pool.sample_group(request)) as completions:
                async for completion in completions:
                    num_tokens += len(completion.token_ids)

    tasks = [asyncio.create_task(keep_sampling()) for _ in range(NUM_GROUPS)]
    try:
        yield lambda: num_tokens
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return median and 95th percentile in milliseconds."""
    return {"p50_ms": 1e3 * statistics.median(seconds), "p95_ms": 1e3 * percentile(seconds, 0.95)}


def run(settings: Sequence[str], num_syncs: int, log: Log) -> dict[str, Any]:
    """Measure and return the result."""
    config = load_config(CONFIG, settings, environment={})
    folder = Path(tempfile.mkdtemp(prefix="bench-swap-"))  # the logs are kept for failures
    prompts = list(load_and_render(config, View()).prompts.values())
    rank = config.learner.lora.r
    adapters = tuple(folder / f"adapter-{number}" for number in range(max(NUM_LIVE)))
    for seed, adapter in enumerate(adapters):
        log(f"making adapter {seed + 1}")
        in_a_process(make_adapter, model_path(config), rank, adapter, prompts[0].token_ids, seed)

    def settings_of(weight_sync_mode: str) -> SamplingSettings:
        return SamplingSettings(
            rollout=config.rollout.model_copy(update={"weight_sync_mode": weight_sync_mode}),
            grader=config.grader,
            model=model_path(config),
            lora_rank=rank,
            max_staleness=max(NUM_LIVE) - 1,
            adapters=adapters,
        )

    found: dict[str, Any] = {"swap": {}, "live": {}}
    for mode in MODES:
        log(f"weight sync: {mode}")
        size = config.rollout.group_size
        with Contestant(
            mode, sync_weights, settings_of(mode), prompts[:64], size, log=folder / f"{mode}.log"
        ) as contestant:
            contestant.wait_until_ready()
            measured = contestant.run_turn(TURN_SECONDS, num_syncs=num_syncs)
        found["swap"][mode] = {
            "idle": percentiles(measured["idle"]),
            "busy": percentiles(measured["busy"]),
            "tokens_per_second": measured["undisturbed"],
            "tokens_per_second_with_swaps": measured["disturbed"],
            "seconds_between_swaps": SECONDS_BETWEEN_SYNCS,
        }
    log("live policy versions")
    with Contestant("vLLM", plain_vllm, settings_of("versions"), log=folder / "vLLM.log") as vllm:
        vllm.wait_until_ready()
        prompt_ids = prompts[0].token_ids
        rounds = [
            {
                number: vllm.run_turn(TURN_SECONDS, num_running=NUM_RUNNING, num_live=number, prompt_ids=prompt_ids)
                for number in NUM_LIVE
            }
            for _ in range(4)
        ]
    for number in NUM_LIVE:  # the first round warms up
        found["live"][str(number)] = min(steps[number]["step_seconds"] for steps in rounds[1:])
    return {**found, "model": config.model.path, "logs": str(folder)}


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a result."""
    syncs = Table(title=f"Weight sync of a sampler ({found['model']}): milliseconds, verification included")
    for name in ("", "idle p50", "idle p95", "busy p50", "busy p95", "tokens/s", "with syncs"):
        syncs.add_column(name, justify="right" if name else "left")
    for mode, row in found["swap"].items():
        times = [f"{row[when][share]:.0f}" for when in ("idle", "busy") for share in ("p50_ms", "p95_ms")]
        speed_share = row["tokens_per_second_with_swaps"] / row["tokens_per_second"]
        syncs.add_row(mode, *times, f"{row['tokens_per_second']:,.0f}", f"{speed_share:.0%}")
    live = Table(title=f"An engine step with {NUM_RUNNING} completions, by number of live policy versions")
    for number in found["live"]:
        live.add_column(number, justify="right")
    single = found["live"]["1"]
    live.add_row(*(f"{1e3 * seconds:.1f} ms ({seconds / single:.2f}x)" for seconds in found["live"].values()))
    return [syncs, live]


def main() -> None:
    """Run the command."""
    parser = option_parser("bench-swap", __doc__)
    parser.add_argument("--quick", action="store_true", help="fewer weight syncs")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="as for `caravan train`")
    options = parser.parse_args()
    num_syncs = 6 if options.quick else 30
    measure_and_print(lambda log: run(options.settings, num_syncs, log), tables)


if __name__ == "__main__":
    main()

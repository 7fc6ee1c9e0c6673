"""``make bench-rollout``: sampling compared with plain vLLM, and GRPO steps compared with TRL's GRPOTrainer.

1. Tokens per second of the sampler pool (one sampler) and of ``vllm.LLM.generate``: the same engine arguments, prompts,
   sampling settings, seeds and adapter, in rounds that alternate. Under the base model and under an adapter.
2. Completions per second over whole steps (sample, grade, learn, publish) of ``caravan train`` with ``max_staleness`` 0 and 1
   (and 1 with merged weights), and of TRL's ``GRPOTrainer``, which generates with transformers and grades with three processes
   per completion.

All use the tiny model and the built-in problems, with the settings of ``configs/demo.yaml``. Rounds alternate, so that other
load on the machine affects all equally, and results are medians of many rounds.
"""

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants import Contestant
from benchmarks.harness import Log, measure_and_print, option_parser, ratios_by_round, rotated
from benchmarks.rollout_tables import tables
from benchmarks.sampling_contestants import SamplingSettings, caravan_pool, in_a_process, make_adapter, plain_vllm
from benchmarks.step_contestants import caravan, plain_trl
from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.config.model_path import model_path
from cluster.console import View
from cluster.run.loading import load_and_render
from cluster.types import GroupRequest, Prompt, Sampling

CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
ROUND_SECONDS = 300.0  # deadline of a round
RUN_SECONDS = 1200.0  # deadline of a run of steps
SETTLING_STEPS = 2  # first steps of a run, in which caches and pipeline fill; not counted
NUM_RUNNING = (1, 4, 16, 64)  # concurrent completions at which an engine step is timed
SAMPLING_CONTESTANTS: Mapping[str, tuple[Callable[..., None], str]] = {  # with rollout.weight_sync_mode
    "vLLM": (plain_vllm, "versions"),
    "Caravan": (caravan_pool, "versions"),
    "Caravan, merged": (caravan_pool, "merged"),
}
BUSY_SHARES = ("samplers_busy_share", "graders_busy_share", "learner_busy_share")
STEP_CONTESTANTS: Mapping[str, tuple[Callable[..., None], int | tuple[str, ...]]] = {
    "TRL, 1 thread": (plain_trl, 1),
    "TRL, 2 threads": (plain_trl, 2),
    "Caravan, staleness 0": (caravan, ("max_staleness=0",)),
    "Caravan, staleness 1": (caravan, ("max_staleness=1",)),
    "Caravan, adapters": (caravan, ("max_staleness=1", "weight_sync_mode=versions")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """Amount of measurement."""

    rounds: int  # rounds of sampling, with and without adapter each
    groups: int  # groups per round
    turns: int  # runs of steps per contestant
    steps: int  # counted steps per run


def compare_sampling(config: Config, effort: Effort, folder: Path, log: Log) -> dict[str, Any]:
    """Compare the contestants of sampling in alternating rounds, without and with an adapter."""
    adapter, rank = folder / "adapter", config.learner.lora.r
    rendered = load_and_render(config, View())
    prompts = list(rendered.prompts.values())
    in_a_process(make_adapter, model_path(config), rank, adapter, prompts[0].token_ids, 0)

    def start(name: str) -> Contestant:
        main, weight_sync_mode = SAMPLING_CONTESTANTS[name]
        settings = SamplingSettings(
            rollout=config.rollout.model_copy(update={"weight_sync_mode": weight_sync_mode}),
            grader=config.grader,
            model=model_path(config),
            lora_rank=rank,
            max_staleness=config.loop.max_staleness,
            adapters=(adapter,),
        )
        return stack.enter_context(Contestant(name, main, settings, log=folder / f"{name.replace(' ', '-')}.log"))

    found: dict[str, Any] = {}
    with ExitStack() as stack:
        contestants: list[Contestant] = []
        for name in SAMPLING_CONTESTANTS:
            log(f"starting an engine: {name}")
            contestants.append(start(name))
            contestants[-1].wait_until_ready()  # one at a time: on few cores, engines that start together take longer
        seeds = itertools.count()
        for policy, with_adapter in (("base", False), ("adapter", True)):
            log(f"sampling from the {policy}, in turns")
            rounds = [
                _run_round(rotated(contestants, number), requests, with_adapter)
                for number, requests in enumerate(_rounds(prompts, config, effort, seeds))
            ]
            found[policy] = sampling_measurements(rounds[1:])  # the first round warms up caches and kernels
        vllm, pool_contestant, prompt_ids = contestants[0], contestants[1], prompts[0].token_ids
        log("grading the last samples")
        graded = pool_contestant.run_turn(
            ROUND_SECONDS, problems={problem.id: problem for problem in rendered.problems}
        )
        ms = 1e3 / graded["num_completions"]
        found["grading"] = {
            "driver_cpu_ms_per_completion": ms * graded["driver_cpu_seconds"],
            "wall_ms_per_completion": ms * graded["seconds"],
            "completions": graded["num_completions"],
        }
        log("timing an engine step")
        found["step_seconds"] = {
            str(number): min(
                vllm.run_turn(ROUND_SECONDS, num_running=number, num_live=1, prompt_ids=prompt_ids)["step_seconds"]
                for _ in range(3)
            )
            for number in NUM_RUNNING
        }
        found["prompt_tokens"] = prompt_tokens(found)
    return found


def prompt_tokens(found: Mapping[str, Any]) -> float:
    """Return the cost of a completion in addition to its tokens (prompt, call), in tokens of a full engine."""
    row, full = found["adapter"]["vLLM"], NUM_RUNNING[-1]
    seconds_per_token = found["step_seconds"][str(full)] / full
    tokens = row["tokens_per_second"] / row["completions_per_second"]
    return float(1 / row["completions_per_second"] / seconds_per_token - tokens)


def _rounds(
    prompts: Sequence[Prompt], config: Config, effort: Effort, seeds: Iterator[int]
) -> Iterator[list[GroupRequest]]:
    sampling = Sampling(
        temperature=config.rollout.temperature, max_completion_tokens=config.rollout.max_completion_tokens
    )
    endless = itertools.cycle(prompts)
    for _ in range(effort.rounds + 1):
        numbered = [(next(seeds), prompt) for prompt in itertools.islice(endless, effort.groups)]
        yield [
            GroupRequest(
                group_id=f"g{number:07d}",
                prompt=prompt,
                group_size=config.rollout.group_size,
                sampling=sampling,
                seed=number * config.rollout.group_size,
            )
            for number, prompt in numbered
        ]


def _run_round(
    contestants: Sequence[Contestant], requests: Sequence[GroupRequest], with_adapter: bool
) -> dict[str, Mapping[str, Any]]:
    results = {
        contestant.name: contestant.run_turn(ROUND_SECONDS, requests=requests, with_adapter=with_adapter)
        for contestant in contestants
    }
    return {name: results[name] for name in SAMPLING_CONTESTANTS}


def sampling_measurements(rounds: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return medians over rounds by contestant; ratios to vLLM are taken within rounds, then their median."""
    return {
        name: _measurements_of([results[name] for results in rounds], [results["vLLM"] for results in rounds])
        for name in rounds[0]
    }


def _measurements_of(turns: Sequence[Mapping[str, Any]], by_vllm: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def speed(turn: Mapping[str, Any]) -> float:
        return float(turn["num_tokens"] / turn["seconds"])

    def cpu_us(turns: Sequence[Mapping[str, Any]]) -> float:
        return float(1e6 * sum(turn["cpu_seconds"] for turn in turns) / sum(turn["num_tokens"] for turn in turns))

    lengths = [len(tokens) for turn in turns for tokens in turn["sampled"].values()]
    ratios = ratios_by_round([speed(turn) for turn in turns], [speed(turn) for turn in by_vllm])
    same = [
        tokens == theirs["sampled"][name]
        for ours, theirs in zip(turns, by_vllm, strict=True)
        for name, tokens in ours["sampled"].items()
    ]
    found = {
        "tokens_per_second": statistics.median(map(speed, turns)),
        "best_tokens_per_second": max(map(speed, turns)),
        "completions_per_second": statistics.median(len(turn["sampled"]) / turn["seconds"] for turn in turns),
        "cpu_us_per_token": cpu_us(turns),
        "token_deciles": [min(lengths), *statistics.quantiles(lengths, n=10, method="inclusive"), max(lengths)],
        "ratio": statistics.median(ratios),
        "lowest_ratio": ratios[0],
        "highest_ratio": ratios[-1],
        "cpu_ratio": cpu_us(turns) / cpu_us(by_vllm),
        "same_completions": statistics.fmean(same),
    }
    if "driver_cpu_seconds" in turns[0]:
        driver = sum(turn["driver_cpu_seconds"] for turn in turns)
        found["driver_cpu_ms_per_completion"] = 1e3 * driver / len(lengths)
    return found


def compare_steps(effort: Effort, folder: Path, log: Log) -> dict[str, Any]:
    """Compare runs of GRPO steps in alternating turns."""
    runs: dict[str, list[Mapping[str, Any]]] = {name: [] for name in STEP_CONTESTANTS}
    for turn in range(effort.turns):
        for name in rotated(list(STEP_CONTESTANTS), turn):
            log(f"GRPO steps: {name}, run {turn + 1} of {effort.turns}")
            main, argument = STEP_CONTESTANTS[name]
            log_file = folder / f"{name.replace(' ', '-')}-{turn}.log"
            with Contestant(name, main, argument, CONFIG, log=log_file) as contestant:
                contestant.wait_until_ready()
                runs[name].append(contestant.run_turn(RUN_SECONDS, num_steps=SETTLING_STEPS + effort.steps))
    measurements = {name: step_measurements(contestant_runs) for name, contestant_runs in runs.items()}
    # The reference is TRL with the number of threads that is faster on this machine.
    plain = max(row["completions_per_second"] for name, row in measurements.items() if name.startswith("TRL"))
    return {name: {**row, "ratio": row["completions_per_second"] / plain} for name, row in measurements.items()}


def step_measurements(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return medians over the counted steps of all runs."""
    durations = [
        after - before for run in runs for before, after in itertools.pairwise(run["ended_at"][SETTLING_STEPS - 1 :])
    ]
    size = runs[0]["completions_per_step"]
    found = {
        "step_seconds": statistics.median(durations),
        "slowest_step_seconds": max(durations),
        "completions_per_second": size / statistics.median(durations),
        # Over whole runs too: the median over steps is too favourable if steps end in pairs.
        "completions_per_second_of_runs": size * len(durations) / sum(durations),
        "steps": len(durations),
    }
    rows = [row for run in runs for row in run.get("metrics", ())[SETTLING_STEPS:]]
    if rows:
        found |= {key: statistics.fmean(row[key] for row in rows) for key in BUSY_SHARES}
        seconds, tokens = (sum(row[key] for row in rows) for key in ("learner_busy_seconds", "completion_tokens"))
        found["learner_ms_per_token"] = 1e3 * seconds / tokens
        found["mean_reward"] = statistics.fmean(row["reward"] for row in rows)
        found["tokens_per_completion"] = statistics.fmean(row["mean_length"] for row in rows)
    if "reward_seconds" in runs[0]:
        found["reward_seconds"] = statistics.median(
            seconds for run in runs for seconds in run["reward_seconds"][SETTLING_STEPS:]
        )
        found["tokens_per_completion"] = statistics.mean(
            number for run in runs for number in run["tokens_per_completion"]
        )
        found["mean_reward"] = statistics.mean(number for run in runs for number in run["rewards"])
    return found


def run(effort: Effort, only: str | None, log: Log) -> dict[str, Any]:
    """Measure and return the result."""
    config = load_config(CONFIG, environment={})
    began = time.monotonic()
    found: dict[str, Any] = {}
    # The logs are kept for failures.
    folder = Path(tempfile.mkdtemp(prefix="bench-rollout-"))
    if only != "steps":
        found["sampling"] = compare_sampling(config, effort, folder, log)
    if only != "sampling":
        found["steps"] = compare_steps(effort, folder, log)
    found["machine"] = {"cores": os.cpu_count(), "seconds": time.monotonic() - began, "logs": str(folder)}
    return found


def main() -> None:
    """Run the command."""
    parser = option_parser("bench-rollout", __doc__)
    parser.add_argument("--quick", action="store_true", help="about 10 minutes instead of 30; less precise")
    parser.add_argument("--only", choices=("sampling", "steps"), help="only one of the two comparisons")
    options = parser.parse_args()
    effort = (
        Effort(rounds=3, groups=32, turns=1, steps=6)
        if options.quick
        else Effort(rounds=8, groups=64, turns=2, steps=12)
    )
    # No process needs the network: model and problems are local.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    measure_and_print(lambda log: run(effort, options.only, log), tables)


if __name__ == "__main__":
    main()

"""``make bench-noise``: the weight-sync tolerance under rounding noise.

1. Simulated: how often the rule of ``rollout/weight_sync.py`` refuses a right policy, and how often a wrong one. The noise of
   bfloat16 has the published size, three kinds of tails, another size for each probe prompt, and a part that its tokens share.
2. Measured on the built-in model in bfloat16, computed in two ways by transformers: the gap under the base model and under
   adapters of growing size, and the correlation of each token's difference with that under the base model.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.harness import Log, measure_and_print, option_parser
from rollout.weight_sync import NOISE_FACTOR, NUM_STANDARD_ERRORS

Numbers = NDArray[np.float64]
NUM_PROBES, NUM_TOKENS = 16, 63
RMS = 0.045  # nats per token
SHARED = (0.0, 0.25)  # parts of the variance that the tokens of a prompt share
TAILS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Numbers]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "student": lambda rng, shape: rng.standard_t(3, shape) / math.sqrt(3),
    "lognormal": lambda rng, shape: rng.standard_normal(shape) * np.exp(rng.standard_normal(shape) - 1),
}
MULTIPLES = (1, 2, 4, 6)  # mean error of a wrong policy's log-probabilities, in units of the mean noise
BATCH = 2_000  # publishes that are simulated at once
ADAPTERS = (5e-6, 5e-5, 5e-4, 5e-3)  # standard deviations of B: one step at a learning rate of 5e-6, ten, ...


def simulate(tail: str, shared: float, num_publishes: int) -> dict[str, Any]:
    """Simulate base models with one publish each; returns refused shares and the ratio of tolerance to noise."""
    rng = np.random.default_rng(0)
    num_refused, largest, ratios = 0, 0.0, []
    caught: dict[str, float] = {}  # of the first batch, by multiple
    for _ in range(num_publishes // BATCH):
        sizes = RMS * np.exp(0.6 * rng.standard_normal((BATCH, NUM_PROBES, 1)) - 0.18)

        def noise(sizes: Numbers = sizes) -> Numbers:
            own = TAILS[tail](rng, (BATCH, NUM_PROBES, NUM_TOKENS))
            of_probe = rng.standard_normal((BATCH, NUM_PROBES, 1))
            return sizes * (math.sqrt(1 - shared) * own + math.sqrt(shared) * of_probe)

        base = np.abs(noise())
        bounds = base.mean(2) + NUM_STANDARD_ERRORS * base.std(2) / math.sqrt(NUM_TOKENS)
        tolerances = NOISE_FACTOR * np.median(bounds, 1)
        right = noise()
        gaps = np.median(np.abs(right).mean(2), 1)
        num_refused += int((gaps > tolerances).sum())
        largest = max(largest, float((gaps / tolerances).max()))
        ratios.append(float(tolerances.mean() / gaps.mean()))
        for multiple in () if caught else MULTIPLES:
            error = rng.laplace(size=right.shape) * multiple * gaps.mean()
            caught[str(multiple)] = float((np.median(np.abs(right + error).mean(2), 1) > tolerances).mean())
    return {
        "refused": num_refused,
        "publishes": num_publishes,
        "largest_share_of_tolerance": largest,
        "tolerance_to_noise": float(np.mean(ratios)),
        "caught": caught,
    }


def measure_tiny() -> list[dict[str, float]]:
    """Return for the base model and each adapter: gap, movement of the log-probabilities, and correlation with the base model."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from benchmarks.rollout import CONFIG
    from cluster.config.load import load_config
    from cluster.config.model_path import tiny_model_path
    from cluster.console import View
    from cluster.run.base_gaps import choose_probes
    from cluster.run.loading import load_and_render

    prompts = list(load_and_render(load_config(CONFIG, (), environment={}), View()).prompts.values())
    ids = torch.tensor(choose_probes(prompts))

    def model(attention: str) -> Any:
        torch.manual_seed(0)
        base = AutoModelForCausalLM.from_pretrained(
            tiny_model_path(), dtype=torch.bfloat16, attn_implementation=attention
        )
        lora = LoraConfig(r=32, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(base, lora).eval()

    def score(model: Any, rows: Any) -> Any:
        logits = model(rows).logits[:, :-1].float()
        return logits.log_softmax(-1).gather(-1, rows[:, 1:, None])[..., 0]

    learner = model("sdpa")  # the adapter in float32, all rows in one batch
    sampler = model("eager").bfloat16()  # all in bfloat16, row by row
    found: list[dict[str, float]] = []
    base: Any = None
    for size in (0.0, *ADAPTERS):
        torch.manual_seed(1)
        for (name, trained), (_, served) in zip(learner.named_parameters(), sampler.named_parameters(), strict=True):
            if "lora_B" in name:
                trained.data = size * torch.randn_like(trained.data)
                served.data = trained.data.bfloat16()
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            trained_scores = score(learner, ids)
        with torch.no_grad():
            served_scores = torch.cat([score(sampler, row[None]) for row in ids])
        difference = (served_scores - trained_scores).flatten()
        base = (difference, trained_scores) if base is None else base
        found.append(
            {
                "b": size,
                "gap": float(difference.view(len(ids), -1).abs().mean(1).median()),
                "moved": float((trained_scores - base[1]).abs().mean()),
                "correlation": float(torch.corrcoef(torch.stack([difference, base[0]]))[0, 1]),
            }
        )
    return found


def run(num_publishes: int, log: Log) -> dict[str, Any]:
    """Measure and return the result."""
    simulated = {}
    for tail in TAILS:
        for shared in SHARED:
            log(f"simulating: {tail}, {shared:.0%} shared")
            simulated[f"{tail} {shared:.0%}"] = simulate(tail, shared, num_publishes)
    log("measuring")
    return {"simulated": simulated, "tiny": measure_tiny()}


def tables(found: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a result."""
    simulated = Table(title="Simulated publishes: refused by noise alone, and with errors of 1, 2, ... times the noise")
    for name in ("noise", "refused", "largest", "limit", *(f"{multiple}x" for multiple in MULTIPLES)):
        simulated.add_column(name, justify="left" if name == "noise" else "right")
    for name, row in found["simulated"].items():
        simulated.add_row(
            name,
            f"{row['refused']} / {row['publishes']:,}",
            f"{row['largest_share_of_tolerance']:.2f}",
            f"{row['tolerance_to_noise']:.1f}x",
            *(f"{row['caught'][str(multiple)]:.1%}" for multiple in MULTIPLES),
        )
    tiny = Table(title="The tiny model in bfloat16, in nats per token")
    for name in ("B", "gap", "moved", "correlation with base"):
        tiny.add_column(name, justify="right")
    for row in found["tiny"]:
        tiny.add_row(f"{row['b']:g}", f"{row['gap']:.4f}", f"{row['moved']:.4f}", f"{row['correlation']:.2f}")
    return [simulated, tiny]


def main() -> None:
    """Run the command."""
    parser = option_parser("bench-noise", __doc__)
    parser.add_argument("--publishes", type=int, default=20_000, metavar="N", help="simulated for each kind of noise")
    options = parser.parse_args()
    measure_and_print(lambda log: run(options.publishes, log), tables)


if __name__ == "__main__":
    main()

"""The learner's step in micro-batches, compared with TRL's own trainer on the whole batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.types import Group
from tests.learner.factories import group
from tests.learner.plain_trl import loss_and_gradient_norm
from tests.learner.scoring import logprobs, sampled_by

pytestmark = pytest.mark.slow
MakeLearner = Callable[..., Any]

LEARNING_RATE = 2e-3
REWARDS = [1.0, 0.0, 0.5, 0.25, 0.0]

# Options of the learner, and TRL's options where they differ.
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dapo": ({"loss_type": "dapo"}, {}),
    "grpo": ({"loss_type": "grpo"}, {}),
    "bnpo": ({"loss_type": "bnpo"}, {}),
    "dr_grpo": ({"loss_type": "dr_grpo"}, {}),
    "cispo": ({"loss_type": "cispo", "epsilon_high": 1.2}, {}),
    "sapo": ({"loss_type": "sapo", "sapo_temperature_neg": 1.5, "sapo_temperature_pos": 0.8}, {}),
    "luspo": ({"loss_type": "luspo", "importance_sampling_level": "sequence"}, {}),
    "vespo": ({"loss_type": "vespo", "vespo_k_neg": 2.0, "vespo_lambda_pos": 2.5}, {}),
    "clip higher": ({"epsilon": 0.1, "epsilon_high": 0.28}, {}),
    "delta": ({"delta": 1.3}, {}),
    "gspo": ({"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.05}, {}),
    "off-policy mask": ({"off_policy_mask_threshold": 0.1}, {}),
    "high entropies": ({"top_entropy_quantile": 0.3}, {}),
    "entropy bonus": ({"loss_type": "grpo", "entropy_coef": 0.05}, {}),
    "entropy bonus of dapo": ({"entropy_coef": 0.05}, {}),
    "KL": ({"kl_coefficient": 0.2}, {"beta": 0.2}),
    "KL, ratio left out": (
        {"kl_coefficient": 0.2, "use_bias_correction_kl": False},
        {"beta": 0.2, "use_bias_correction_kl": False},
    ),
}


def batch(model_folder: Path) -> list[Group]:
    """Groups whose sampler was another policy, so that ratios leave every bound on both sides."""
    return [
        sampled_by(model_folder, group(REWARDS, seed=seed), shift=shift) for seed, shift in enumerate((-0.4, 0.3, 0.05))
    ]


@pytest.mark.parametrize("micro_batch_tokens", [10_000, pytest.param(60, marks=pytest.mark.model_runner), 1])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_step_in_micro_batches_equals_trls_step_on_the_whole_batch(
    name: str, micro_batch_tokens: int, model_folder: Path, make_learner: MakeLearner, tmp_path: Path
) -> None:
    options, changed = OPTIONS[name]
    groups = batch(model_folder)
    learner = make_learner(learning_rate=LEARNING_RATE, micro_batch_tokens=micro_batch_tokens, **options)
    _, first = learner.step(groups)  # so that neither half of the adapter is zero
    learner.export_adapter(str(tmp_path / "adapter"))
    _, report = learner.step(groups)
    ids = [each.id for one in groups for each in one.completions]
    assert report.advantages == first.advantages
    trl_options = {key: value for key, value in options.items() if not key.startswith("kl_")} | changed
    loss, norm = loss_and_gradient_norm(
        model_folder,
        tmp_path / "adapter",
        groups,
        [report.advantages[one] for one in ids],
        **{"loss_type": "dapo", "use_bias_correction_kl": True, **trl_options},
    )
    assert report.metrics["loss"] == pytest.approx(loss, abs=1e-5, rel=1e-4)
    assert report.metrics["grad_norm"] == pytest.approx(norm, rel=1e-3)


def test_every_option_of_these_tests_changes_the_result(model_folder: Path, make_learner: MakeLearner) -> None:
    """If an option had no effect, the comparison above could not fail for it."""
    groups = batch(model_folder)
    norms = {}
    for name, (options, _) in OPTIONS.items():
        learner = make_learner(checkpoints=name, learning_rate=LEARNING_RATE, **options)
        learner.step(groups)
        norms[name] = learner.step(groups)[1].metrics["grad_norm"]
        learner.close()
    same_as_dapo = [name for name, norm in norms.items() if norm == pytest.approx(norms["dapo"], rel=1e-3)]
    assert same_as_dapo == ["dapo", "bnpo"], norms


@pytest.mark.parametrize("micro_batch_tokens", [10_000, 40])
@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_the_correction_weights_by_the_ratio_to_the_sampler_and_clips_the_ratio_to_the_policy(
    mode: str, micro_batch_tokens: int, model_folder: Path, make_learner: MakeLearner, tmp_path: Path
) -> None:
    groups = batch(model_folder)
    learner = make_learner(
        learning_rate=LEARNING_RATE,
        micro_batch_tokens=micro_batch_tokens,
        vllm_importance_sampling_correction=True,
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_max=1.4,
        vllm_importance_sampling_clip_min=0.75,
    )
    learner.step(groups)
    learner.export_adapter(str(tmp_path / "adapter"))
    _, report = learner.step(groups)
    completions = [each for one in groups for each in one.completions]
    rows = []
    for each in completions:
        now = logprobs(model_folder, each, tmp_path / "adapter")
        ratios = [(a - b) for a, b in zip(now, each.sampler_logprobs, strict=True)]
        if mode.startswith("sequence"):
            ratios = [sum(ratios)] * len(ratios)
        weights = [torch.tensor(value).exp().item() for value in ratios]
        if mode.endswith("truncate"):
            weights = [min(max(value, 0.75), 1.4) for value in weights]
        else:
            weights = [value if 0.75 <= value <= 1.4 else 0.0 for value in weights]
        rows.append(weights)
    width = max(map(len, rows))
    flat = [value for row in rows for value in row]
    assert len(set(flat)) > 2 and {0.75, 1.4, 0.0} & set(flat)  # some are within the bounds, some are not
    loss, norm = loss_and_gradient_norm(
        model_folder,
        tmp_path / "adapter",
        groups,
        [report.advantages[each.id] for each in completions],
        weights=torch.tensor([row + [1.0] * (width - len(row)) for row in rows]),
        loss_type="dapo",
        vllm_importance_sampling_correction=True,
    )
    assert report.metrics["loss"] == pytest.approx(loss, abs=1e-5, rel=1e-4)
    assert report.metrics["grad_norm"] == pytest.approx(norm, rel=1e-3)
    assert report.metrics["clip_ratio/region_mean"] == 0.0  # the policy has not moved since the start of the step


def test_completions_are_scored_at_their_own_temperature(model_folder: Path, make_learner: MakeLearner) -> None:
    from dataclasses import replace

    def at(temperature: float, seed: int) -> Group:
        each = group(REWARDS, seed=seed)
        return replace(
            each,
            completions=tuple(
                replace(
                    one,
                    temperature=temperature,
                    sampler_logprobs=tuple(logprobs(model_folder, one, temperature=temperature)),
                )
                for one in each.completions
            ),
        )

    groups = [at(1.0, 0), at(1.3, 1), *[sampled_by(model_folder, group(REWARDS, seed=2))]]
    _, report = make_learner(kl_coefficient=0.1).step(groups)
    assert report.metrics["sampling/sampling_logp_difference/max"] < 1e-4
    assert report.metrics["clip_ratio/region_mean"] == 0.0
    assert report.metrics["kl"] == pytest.approx(0.0, abs=1e-6)  # the reference is taken at the same temperatures


@pytest.mark.model_runner
def test_the_fused_head_takes_the_branch_of_the_chosen_model_runner(
    make_learner: MakeLearner, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl.kernels import chunked_logprob

    calls: list[str] = []
    of_torch, of_triton = chunked_logprob._forward_tile, chunked_logprob._forward_kernel

    class Kernel:
        """Counts the launches of Triton's kernel."""

        def __getitem__(self, grid: object) -> Any:
            calls.append("triton")
            return of_triton[grid]

    def tile(*arguments: Any, **options: Any) -> Any:
        calls.append("torch")
        return of_torch(*arguments, **options)

    monkeypatch.setattr(chunked_logprob, "_forward_tile", tile)
    monkeypatch.setattr(chunked_logprob, "_forward_kernel", Kernel())
    make_learner().step([group(REWARDS)])
    assert set(calls) == {"torch" if pytestconfig.getoption("--model-runner") == "v1" else "triton"}

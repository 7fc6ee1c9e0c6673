"""Log-probabilities in training compared with the model's own, for families with special computations."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.errors import ModelError
from cluster.types import Group
from learner.training.model import disable_dropout, has_plain_kv_cache
from learner.training.trainer import GroupTrainer
from learner.worker import LearnerWorker
from tests.learner.factories import TEMPERATURE, group, plan, settings
from tests.model_families import FAMILIES, make_model

pytestmark = pytest.mark.slow

SPECIAL: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4},  # learned positions, and dropout by default
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 128},  # the same, in another implementation
    "hunyuan_v1_dense": {"head_dim": 32},  # queries are scaled after the rotation
    "granite": {"logits_scaling": 4.0},
    "gemma2": {"head_dim": 32, "sliding_window": 8},  # soft-capped logits
    "lfm2": {"layer_types": ["full_attention", "conv"]},  # states that completions cannot share
    "mixtral": {"num_local_experts": 4, "output_router_logits": True},
}


def scored(model: str, groups: list[Group]) -> list[Group]:
    """The groups with the log-probabilities that transformers computes for each completion separately."""
    from transformers import AutoModelForCausalLM

    scorer = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()

    def logprobs(prompt_ids: tuple[int, ...], token_ids: tuple[int, ...]) -> tuple[float, ...]:
        with torch.no_grad():
            logits = scorer(torch.tensor([prompt_ids + token_ids]), use_cache=False).logits[0, len(prompt_ids) - 1 : -1]
        found = (logits.float() / TEMPERATURE).log_softmax(-1).gather(-1, torch.tensor(token_ids)[:, None])
        return tuple(found[:, 0].tolist())

    return [
        replace(
            each,
            completions=tuple(
                replace(one, sampler_logprobs=logprobs(one.prompt_ids, one.token_ids)) for one in each.completions
            ),
        )
        for each in groups
    ]


@pytest.mark.parametrize("family", [*FAMILIES, *SPECIAL])
def test_a_step_is_computed_from_the_log_probabilities_that_the_model_samples_with(family: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", family, **SPECIAL.get(family, {}))
    groups = scored(model, [group([1.0, 0.0, 0.5, 0.25], seed=seed, prompt_length=12 + 9 * seed) for seed in range(2)])
    probe = tuple(random.Random(0).randrange(3, 90) for _ in range(20))
    learner = LearnerWorker(settings(), plan(tmp_path / "model", tmp_path / "checkpoints", probe_ids=(probe,)))
    try:
        learner.start()
        measured = learner.step(groups)[1].metrics
    finally:
        learner.close()
    assert measured["sampling/sampling_logp_difference/max"] < 1e-4
    assert measured["grad_norm"] > 0


def test_a_model_with_other_log_probabilities_in_training_is_refused_at_the_start(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GroupTrainer, "training_gap", lambda *_: 0.3)
    learner = LearnerWorker(settings(), plan(model_folder, tmp_path / "checkpoints", probe_ids=((3, 4, 5),)))
    with pytest.raises(
        ModelError, match=r"cannot be trained: its log-probabilities in training are 0.3 nats per token away"
    ):
        learner.start()
    learner.close()


def test_only_dropout_is_disabled() -> None:
    from transformers import PhimoeConfig

    config = PhimoeConfig(attention_dropout=0.1, router_jitter_noise=0.01, bos_token_id=None, eos_token_id=0)
    disable_dropout(config)
    assert (config.attention_dropout, config.router_jitter_noise) == (0.0, 0.01)


@pytest.mark.parametrize(("family", "shares"), [("gemma3_text", True), ("lfm2", False)])
def test_only_models_with_a_plain_kv_cache_share_prompts(family: str, shares: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = make_model(tmp_path, family, **SPECIAL.get(family, {}))
    assert has_plain_kv_cache(AutoModelForCausalLM.from_pretrained(folder)) == shares

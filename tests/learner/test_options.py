"""Options of TRL's GRPO: each is a setting here, or is refused with a reason or another key."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.config.keys import keys
from cluster.config.load import load_config
from cluster.errors import ConfigError
from learner.overrides import CHANGEABLE
from learner.settings import LearnerSettings
from learner.trl_names import REFUSED


@pytest.mark.slow
def test_every_option_of_trl_is_a_setting_or_refused_and_nothing_else_is_refused() -> None:
    from learner.training.trainer import GRPOConfig

    options = {field.name for field in fields(GRPOConfig)}
    names = set(LearnerSettings.model_fields)
    assert options - names - REFUSED.keys() == set(), "TRL has options that are neither settings nor refused"
    assert REFUSED.keys() <= options, "TRL no longer has these options"
    assert names & REFUSED.keys() == set()


@pytest.mark.slow
def test_settings_with_the_names_of_trl_options_reach_trl() -> None:
    """Every setting that is passed on has a value that differs from TRL's default."""
    import torch

    from learner.training.build import NOT_FOR_TRL, trl_arguments
    from learner.training.model import Device
    from learner.training.trainer import GRPOConfig
    from tests.learner.factories import plan

    changed: dict[str, Any] = {
        "loss_type": "cispo",
        "epsilon": 0.11,
        "epsilon_high": 4.5,
        "importance_sampling_level": "sequence",
        "sapo_temperature_neg": 1.2,
        "sapo_temperature_pos": 1.3,
        "vespo_k_pos": 1.1,
        "vespo_lambda_pos": 1.4,
        "vespo_k_neg": 1.5,
        "vespo_lambda_neg": 1.6,
        "vllm_importance_sampling_correction": True,
        "vllm_importance_sampling_mode": "token_mask",
        "vllm_importance_sampling_clip_max": 7.0,
        "vllm_importance_sampling_clip_min": 0.3,
        "off_policy_mask_threshold": 0.7,
        "top_entropy_quantile": 0.8,
        "use_bias_correction_kl": False,
        "scale_rewards": "none",
        "mask_truncated_completions": True,
        "learning_rate": 3e-4,
        "lr_scheduler_type": "cosine",
        "lr_scheduler_kwargs": {"num_cycles": 0.25},
        "warmup_steps": 3.0,
        "optim": "adafactor",
        "adam_beta1": 0.8,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-6,
        "weight_decay": 0.1,
        "max_grad_norm": 0.5,
        "gradient_checkpointing": True,
    }
    separate = {"delta": 2.0, "entropy_coef": 0.1}  # cispo has no delta; entropy_coef excludes top_entropy_quantile
    passed_on = {field.name for field in fields(GRPOConfig)} & set(LearnerSettings.model_fields) - set(NOT_FOR_TRL)
    assert changed.keys() | separate.keys() == passed_on
    for values in (changed, separate):
        arguments = trl_arguments(
            LearnerSettings(**values),
            plan(Path("model"), Path("checkpoints")),
            Device(use_cpu=True, dtype=torch.float32),
        )
        assert {name: getattr(arguments, name) for name in values} == values


@pytest.mark.parametrize(
    ("key", "reported"),
    [
        ("learner.beta", "learner.beta: use learner.kl_coefficient"),
        ("learner.num_generations", "use rollout.group_size"),
        ("learner.use_vllm", "sampled by the rollout section's samplers"),
        ("learner.gradient_accumulation_steps", "a step is the sum of its micro-batches.*learner.micro_batch_tokens"),
        ("learner.fp16", "learner.dtype"),
        ("learner.fsdp", "use learner.shard_base"),
        ("learner.ddp_backend", "learner.num_ranks sets their number"),
        ("sync_ref_model", "the base model of model.path, which never changes"),
    ],
)
def test_other_options_of_trl_are_refused_in_one_line_with_the_reason_or_the_key(key: str, reported: str) -> None:
    with pytest.raises(ConfigError, match=reported) as caught:
        load_config(None, [f"{key}=1"], environment={})
    assert "\n" not in str(caught.value)


def test_refusals_name_only_existing_keys() -> None:
    known = set(keys())
    sections = {key.partition(".")[0] for key in known}
    named = {
        one
        for reason in REFUSED.values()
        for one in re.findall(r"\b((?:%s)\.[a-z0-9_.]+[a-z0-9])" % "|".join(sections), reason)  # noqa: UP031
    }
    assert len(named) > 10
    assert {one for one in named if one not in known and not any(key.startswith(f"{one}.") for key in known)} == set()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_type": "cispo"}, "learner.loss_type=cispo: .*set learner.epsilon_high"),
        ({"loss_type": "luspo"}, "set learner.importance_sampling_level=sequence"),
        (
            {"loss_type": "vespo", "importance_sampling_level": "sequence"},
            "set learner.importance_sampling_level=token",
        ),
        ({"loss_type": "sapo", "delta": 2.0}, "sapo has no such bound"),
        ({"delta": 1.2}, r"learner.delta=1.2: must be above 1 \+ epsilon_high, which is 1.2"),
        ({"vllm_importance_sampling_clip_min": 3.0}, "must be below learner.vllm_importance_sampling_clip_max=3.0"),
        (
            {"vllm_importance_sampling_correction": True, "vllm_importance_sampling_clip_max": None},
            "has no bound; set vllm_importance_sampling_clip_max",
        ),
        ({"loss_type": "vespo", "vllm_importance_sampling_correction": True}, "set token_truncate or token_mask"),
        ({"kl_target": 0.1}, "learner.kl_target: adapts kl_coefficient, which would stay at 0"),
        ({"kl_target": 20.0, "kl_coefficient": 0.1}, "learner.stop_at_kl=10.0: must be above learner.kl_target=20.0"),
        ({"entropy_coef": 0.1, "top_entropy_quantile": 0.5}, "use one of the two"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "the minimum is missing"),
        ({"shard_base": True}, "learner.shard_base: a single rank.*set learner.num_ranks"),
        ({"num_ranks": 2, "gpus": 0.5}, "learner.num_ranks=2: .*set learner.gpus=1"),
    ],
)
def test_conflicting_options_are_refused_with_the_key_and_a_fix(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LearnerSettings(**settings)


def test_the_page_on_the_learner_names_only_existing_keys_and_every_option() -> None:
    page = (Path(__file__).parents[2] / "docs" / "learner.md").read_text()
    known = set(keys())
    sections = {key.partition(".")[0] for key in known}
    quoted = {
        word for span in re.findall(r"`([^`]+)`", page) for word in re.findall(r"^[a-z_]+\.[a-z0-9_.]+[a-z0-9]", span)
    }
    named = {
        word for word in quoted if word.partition(".")[0] in sections and not word.endswith((".md", ".py", ".jsonl"))
    }
    assert len(named) > 20
    assert {one for one in named if one not in known and not any(key.startswith(f"{one}.") for key in known)} == set()
    placement_settings = ("gpus", "gpu_memory_share", "cpus", "num_threads", "save_total_limit", "lora")
    families = ("sapo_temperature", "vespo", "adam", "vllm_importance_sampling_clip")  # reported together
    reported = [
        name
        for name in LearnerSettings.model_fields
        if name not in placement_settings and not name.endswith("deadline_seconds") and not name.startswith(families)
    ]
    assert [name for name in reported if f"`{name}`" not in page] == []
    assert [name for name in CHANGEABLE if f"`{name}`" not in page and not name.startswith(families)] == []

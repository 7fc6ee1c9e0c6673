"""Training of all weights: real TRL on a tiny random Qwen2, in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from cluster.errors import LearnerError
from cluster.types import PolicyVersion
from cluster.weight_sums import weight_sums
from learner.settings import LearnerSettings
from learner.training.merge import logprobs
from tests.learner.factories import group, plan, settings
from tests.learner.scoring import sampled_by

MakeLearner = Callable[..., Any]
PROBES = ((5, 40, 7, 9), (6, 41, 8, 3))


def full(make_learner: MakeLearner, checkpoints: str = "checkpoints", **changes: Any) -> Any:
    return make_learner(
        checkpoints=checkpoints,
        planned={"probe_ids": PROBES},
        method="full",
        lora={},
        **{"learning_rate": 1e-3} | changes,
    )


def weights(policy: PolicyVersion) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = load(policy.adapter["model.safetensors"])
    return loaded


def groups(model_folder: Path) -> list[Any]:
    return [sampled_by(model_folder, group([1.0, 0.0, 0.5, 0.25, 0.0], seed=seed)) for seed in range(3)]


def test_the_learning_rate_of_all_weights_is_a_fifth_of_an_adapters_unless_it_is_set() -> None:
    assert LearnerSettings().learning_rate == 5e-6
    assert LearnerSettings(method="full").learning_rate == 1e-6
    assert LearnerSettings(method="full", learning_rate=5e-6).learning_rate == 5e-6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"lora": {"r": 16}},
            r"learner\.lora\.r=16: .*remove it \(or set its default, 32\), or set learner\.method=lora",
        ),
        ({"shard_base": True, "num_ranks": 2}, r"learner\.shard_base: .*no frozen base"),
    ],
)
def test_settings_of_an_adapter_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LearnerSettings.model_validate({"method": "full", **changes})
    assert LearnerSettings.model_validate({"method": "full", "lora": {"r": 32}}).method == "full"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_changes_every_weight_and_the_published_files_are_those_of_the_model(
    dtype: str, model_folder: Path, make_learner: MakeLearner, tmp_path: Path
) -> None:
    learner = full(make_learner, dtype=dtype)
    before = weights(learner._training.run(learner._policy))
    policy, report = learner.step(groups(model_folder))
    after = weights(policy)
    assert "lm_head.weight" not in after  # tied to the embedding
    unchanged = [name for name in after if torch.equal(before[name], after[name])]
    assert not unchanged
    assert policy.weight_sums == weight_sums(after.items())
    assert set(policy.modules) == set(policy.weight_sums) == {"layer 0", "layer 1", "embeddings, head and final norm"}
    assert report.metrics["sampling/sampling_logp_difference/mean"] < (1e-5 if dtype == "float32" else 0.05)

    learner.export_adapter(str(tmp_path / "model"))  # transformers alone computes what the learner scored
    expected = logprobs(str(tmp_path / "model"), PROBES, dtype="float32")
    scored = [value for probe in policy.probes for value in probe.logprobs]
    assert scored == pytest.approx(expected, abs=1e-5 if dtype == "float32" else 0.1)


@pytest.mark.slow
def test_a_reference_is_loaded_when_a_kl_coefficient_needs_it_and_is_the_model_before_training(
    model_folder: Path, make_learner: MakeLearner
) -> None:
    learner = full(make_learner)
    base = learner.base_probes()
    model = learner._trainer.model
    learner.step(groups(model_folder))
    assert not model._references
    assert learner.base_probes() == base  # loaded for the probes alone
    assert not model._references
    _, report = learner.step(groups(model_folder), {"kl_coefficient": 0.1})
    assert report.metrics["kl"] > 0.01
    assert len(model._references) == 1
    trained = {id(each) for each in model.parameters()}
    assert not trained & {id(each) for each in model._references[0].parameters()}


@pytest.mark.slow
def test_the_divergence_from_the_reference_is_zero_before_the_first_step(
    model_folder: Path, make_learner: MakeLearner
) -> None:
    learner = full(make_learner, dtype="bfloat16", kl_coefficient=0.1)
    _, report = learner.step(groups(model_folder))
    assert report.metrics["kl"] == 0.0


@pytest.mark.slow
def test_a_resumed_learner_continues_bit_for_bit_and_refuses_checkpoints_of_the_other_method(
    model_folder: Path, make_learner: MakeLearner, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"kl_coefficient": 0.1, "lr_scheduler_type": "cosine", "learning_rate": 1e-4}
    learner = full(make_learner, **options)
    learner.step(groups(model_folder))
    learner.save_checkpoint()
    expected, _ = learner.step(groups(model_folder)[:2])
    resumed = full(make_learner, **options)
    assert resumed.step(groups(model_folder)[:2])[0] == expected

    from learner.worker import LearnerWorker

    for name, changes, missing in (
        ("checkpoints", {}, "it has no adapter_model.safetensors"),
        ("lora", {"method": "full", "lora": {}}, "it has no config.json, model.safetensors"),
    ):
        if name == "lora":
            adapter = make_learner(checkpoints=name)
            adapter.save_checkpoint()
        other = LearnerWorker(settings(**changes), plan(model_folder, tmp_path / name))
        with pytest.raises(LearnerError, match=f"{missing}.*learner.method"):
            other.start()
        other.close()

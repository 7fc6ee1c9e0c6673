"""Real TRL on a tiny random Qwen2, in this process."""

import inspect
import json
import re
import resource
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from cluster.errors import ConfigError, LearnerError, ModelError
from cluster.types import PolicyVersion
from learner.adapter_folder import read_adapter
from learner.lora_settings import LoraSettings
from learner.settings import LossType
from learner.training.targets import settings_of
from tests.learner.factories import TEMPERATURE, group, plan, settings, updated_in_flight
from tests.learner.scoring import grpo_loss, logprobs, sampled_by

pytestmark = pytest.mark.slow
MakeLearner = Callable[..., Any]


def weights(policy: PolicyVersion) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = load(policy.adapter["adapter_model.safetensors"])
    return loaded


def furthest_apart(one: PolicyVersion, other: PolicyVersion) -> float:
    left, right = weights(one), weights(other)
    return max((left[name] - right[name]).abs().max().item() for name in left)


def current_policy(learner: Any) -> PolicyVersion:
    policy: PolicyVersion = learner._running().run(learner._policy)
    return policy


def some_groups(model_folder: Path, *, count: int = 3, shift: float = 0.0) -> list[Any]:
    rewards = [1.0, 0.0, 0.5, 0.25, 0.0]
    return [sampled_by(model_folder, group(rewards, seed=seed), shift=shift) for seed in range(count)]


def test_training_starts_from_an_adapter_that_plain_peft_made(
    make_learner: MakeLearner, model_folder: Path, tmp_path: Path
) -> None:
    """Policy 0 is that adapter, the base model stays the reference, and a checkpoint takes its place."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    made = LoraConfig(
        r=6,
        lora_alpha=4.5,
        use_rslora=True,
        target_modules=["q_proj", "down_proj"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32), made)
    adapted.save_pretrained(tmp_path / "made")
    adapter = read_adapter(tmp_path / "made")
    lora = LoraSettings(dropout=0.0, **settings_of(adapter, str(model_folder), LoraSettings()))
    planned = {"initial_adapter": adapter.files, "probe_ids": ((1, 5, 9, 3, 7),)}
    learner = make_learner(lora=lora, planned=planned)
    policy = current_policy(learner)
    assert policy.number == 0
    assert weights(policy).keys() == load(adapter.files["adapter_model.safetensors"]).keys()
    assert all(
        torch.equal(weights(policy)[name], tensor)
        for name, tensor in load(adapter.files["adapter_model.safetensors"]).items()
    )
    (probe,) = policy.probes
    ids = torch.tensor([probe.token_ids])
    for scores, without in (
        (probe.logprobs, nullcontext()),
        (learner.base_probes()[0].logprobs, adapted.disable_adapter()),
    ):
        with torch.no_grad(), without:
            expected = adapted.eval()(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        assert torch.allclose(torch.tensor(scores), expected, atol=1e-5)
    trained, _ = learner.step(some_groups(model_folder))
    assert furthest_apart(policy, trained) > 0
    learner.save_checkpoint()
    resumed = current_policy(make_learner(lora=lora, planned=planned))
    assert (resumed.number, furthest_apart(resumed, trained)) == (1, 0)


def test_trl_reads_the_tensors_of_a_micro_batch() -> None:
    from learner.training.trainer import GroupTrainer

    source = inspect.getsource(GroupTrainer._compute_loss)
    required = set(re.findall(r'inputs\["(\w+)"\]', source))
    assert required == {
        "prompt_ids",
        "prompt_mask",
        "completion_ids",
        "completion_mask",
        "advantages",
        "num_items_in_batch",
        "ref_per_token_logps",  # with a KL coefficient
        "importance_sampling_ratio",  # with TRL's own vLLM
        "tool_mask",  # with tools
    }
    optional = set(re.findall(r'inputs.get\("(\w+)"', source))
    assert {"old_per_token_logps", "sampling_per_token_logps"} <= optional


def test_on_policy_the_ratio_is_one_and_the_loss_matches_a_separate_computation(
    model_folder: Path, make_learner: MakeLearner
) -> None:
    groups = some_groups(model_folder)
    _, report = make_learner().step(groups)
    assert report.step == 1
    assert report.metrics["sampling/sampling_logp_difference/max"] < 1e-4
    assert report.metrics["sampling/importance_sampling_ratio/mean"] == pytest.approx(1.0, abs=1e-5)
    assert report.metrics["clip_ratio/region_mean"] == 0.0
    assert report.metrics["loss"] == pytest.approx(grpo_loss(model_folder, groups), abs=1e-5)
    assert report.metrics["num_completion_tokens"] == sum(len(c.token_ids) for each in groups for c in each.completions)


def test_shifted_sampler_logprobs_move_the_ratio_the_clip_fraction_and_the_loss(
    model_folder: Path, make_learner: MakeLearner
) -> None:
    groups = some_groups(model_folder, shift=-0.5)
    _, report = make_learner().step(groups)
    assert report.metrics["sampling/sampling_logp_difference/mean"] == pytest.approx(0.5, abs=1e-4)
    assert report.metrics["sampling/importance_sampling_ratio/mean"] == pytest.approx(1.64872, rel=1e-4)
    assert report.metrics["clip_ratio/high_mean"] > 0.2  # all tokens with a positive advantage
    assert report.metrics["loss"] == pytest.approx(grpo_loss(model_folder, groups), abs=1e-4)


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "bnpo", "dr_grpo"])
def test_the_split_into_micro_batches_does_not_change_the_step(
    loss_type: LossType, model_folder: Path, make_learner: MakeLearner
) -> None:
    groups = some_groups(model_folder, shift=0.1)
    outcomes = [make_learner(loss_type=loss_type, micro_batch_tokens=tokens).step(groups) for tokens in (10_000, 60, 1)]
    whole_policy, whole = outcomes[0]
    for policy, report in outcomes[1:]:
        assert report.metrics["loss"] == pytest.approx(whole.metrics["loss"], abs=1e-5)
        assert report.metrics["grad_norm"] == pytest.approx(whole.metrics["grad_norm"], rel=1e-3)
        assert furthest_apart(policy, whole_policy) < 1e-3  # a tenth of AdamW's first step of every weight


def test_sharing_a_prompt_gives_the_same_gradient_as_separate_rows(
    model_folder: Path, make_learner: MakeLearner
) -> None:
    from learner.batch.micro_batches import plan_micro_batches
    from learner.batch.selection import select
    from learner.batch.tensors import micro_batch_tensors

    groups = some_groups(model_folder, shift=0.1)
    rows = select(groups, settings=settings(), learner_version=0, max_staleness=0, temperature=TEMPERATURE).rows
    plans = plan_micro_batches(rows, max_padded_tokens=10_000, shares_prompts=True)
    (batch,) = micro_batch_tensors(plans, pad_token_id=2, loss_type="dapo")
    learner = make_learner()
    learner.step(some_groups(model_folder))  # so that neither half of the adapter is zero
    trainer = learner._trainer
    gradients = []
    for shared in (True, False):
        if not shared:
            trainer._shareable_prompts = lambda _: None
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)).backward()
        gradients.append([p.grad.clone() for p in trainer.model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) == 2 * 7 * 2
    for with_sharing, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(with_sharing, alone, rtol=1e-4, atol=1e-6)


def test_the_report_has_the_advantages_in_the_loss_and_the_excluded_completions(make_learner: MakeLearner) -> None:
    _, report = make_learner(scale_rewards="none").step([group([1.0, None, 0.0])])
    assert report.advantages == {"g0-c0": 0.5, "g0-c2": -0.5}
    assert report.excluded == {"g0-c1": "ungradable"}


def test_ungradable_completions_do_not_change_the_gradient(make_learner: MakeLearner) -> None:
    graded = group([1.0, 0.0, 0.5])
    ungraded = group([1.0, 0.0, 0.5, None])
    assert ungraded.completions[:3] == graded.completions
    policies = [make_learner(checkpoints=name).step([each])[0] for name, each in (("a", graded), ("b", ungraded))]
    assert policies[0].adapter == policies[1].adapter


@pytest.mark.parametrize("micro_batch_tokens", [10_000, 30])
@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "bnpo", "dr_grpo"])
def test_stale_tokens_are_input_and_masked(
    loss_type: LossType, micro_batch_tokens: int, model_folder: Path, make_learner: MakeLearner, tmp_path: Path
) -> None:
    learner = make_learner(planned={"max_staleness": 0}, loss_type=loss_type, micro_batch_tokens=micro_batch_tokens)
    learner.step(some_groups(model_folder))
    learner.export_adapter(str(tmp_path / "first"))  # the adapter that the second step starts from
    lengths = [[len(each.token_ids) for each in one.completions] for one in some_groups(model_folder)]
    groups = [
        updated_in_flight(one, [min(2, length) for length in of_group], old=0, new=1)
        for one, of_group in zip(some_groups(model_folder, shift=0.1), lengths, strict=True)
    ]
    expected = grpo_loss(model_folder, groups, loss_type=loss_type, oldest_version=1, adapter=tmp_path / "first")
    _, report = learner.step(groups)
    num_tokens, num_stale = sum(map(sum, lengths)), sum(min(2, length) for each in lengths for length in each)
    assert report.metrics["loss"] == pytest.approx(expected, abs=1e-4)
    assert report.metrics["num_completion_tokens"] == num_tokens - num_stale
    assert report.metrics["stale_token_share"] == pytest.approx(num_stale / num_tokens)
    too_short = {c.id for one in groups for c in one.completions if len(c.token_ids) <= 2}
    assert report.excluded == dict.fromkeys(too_short, "stale")
    assert report.metrics["num_completions"] == len(report.advantages) == 15 - len(too_short)


def test_the_probe_prompt_is_the_policys_score_of_fixed_tokens_at_temperature_one(
    model_folder: Path, make_learner: MakeLearner, tmp_path: Path
) -> None:
    ids = (5, 40, 7, 90, 3, 3)
    others = (5, 40, 7, 90, 3, 4)
    planned = {"probe_ids": (others, ids)}
    learner = make_learner(dropout=0.3, planned=planned)
    policy, _ = learner.step([group([1.0, 0.0])])
    learner.step([group([1.0, 0.0])])
    learner.export_adapter(str(tmp_path / "second"))
    policy, _ = learner.step([group([1.0, 0.0])])
    learner.export_adapter(str(tmp_path / "third"))
    fixed = replace(group([1.0]).completions[0], prompt_ids=ids[:1], token_ids=ids[1:])
    assert [probe.token_ids for probe in policy.probes] == [others, ids]
    scored = {name: logprobs(model_folder, fixed, tmp_path / name, temperature=1.0) for name in ("second", "third")}
    assert policy.probes[1].logprobs == pytest.approx(scored["third"], abs=1e-5)
    assert (
        max(abs(one - other) for one, other in zip(*scored.values(), strict=True)) > 1e-3
    )  # so that the probe distinguishes the two adapters
    learner.save_checkpoint()
    resumed = make_learner(dropout=0.3, planned=planned)
    assert resumed._training.run(resumed._policy) == policy
    under_base = logprobs(model_folder, fixed, temperature=1.0)
    assert resumed.base_probes()[1].logprobs == pytest.approx(under_base, abs=1e-5)


def test_scoring_a_probe_prompt_does_not_change_the_training(make_learner: MakeLearner) -> None:
    def adapter_after_three_steps(name: str, *probe_ids: tuple[int, ...]) -> Any:
        # The learners run one after another: dropout draws from the random state of the process.
        learner = make_learner(checkpoints=name, dropout=0.3, planned={"probe_ids": probe_ids})
        learner.base_probes()
        return [learner.step([group([1.0, 0.0, 0.3], seed=seed)])[0].adapter for seed in range(3)]

    assert adapter_after_three_steps("with", (5, 40, 7)) == adapter_after_three_steps("without")


def test_steps_make_rewarded_completions_likelier(
    model_folder: Path, make_learner: MakeLearner, tmp_path: Path
) -> None:
    learner = make_learner()
    good, bad = sampled_by(model_folder, group([1.0, 0.0])).completions
    before = sum(logprobs(model_folder, good)), sum(logprobs(model_folder, bad))
    for _ in range(3):
        learner.step([sampled_by(model_folder, group([1.0, 0.0]))])
    learner.export_adapter(str(tmp_path / "adapter"))
    after = (
        sum(logprobs(model_folder, good, tmp_path / "adapter")),
        sum(logprobs(model_folder, bad, tmp_path / "adapter")),
    )
    assert after[0] > before[0] + 0.1
    assert after[1] < before[1] - 0.1


def test_the_policy_is_a_peft_folder_with_the_keys_that_vllm_binds(
    model_folder: Path, make_learner: MakeLearner
) -> None:
    from transformers import AutoModelForCausalLM

    policy, _ = make_learner().step([group([1.0, 0.0])])
    config = json.loads(policy.adapter["adapter_config.json"])
    assert (config["peft_type"], config["r"], config["lora_alpha"], config["bias"]) == ("LORA", 8, 16, "none")
    assert config["inference_mode"] is True
    assert policy.probes == ()
    attention = [f"self_attn.{name}_proj" for name in "qkvo"]
    feed_forward = [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    assert set(weights(policy)) == {
        f"base_model.model.model.layers.{layer}.{module}.lora_{side}.weight"
        for layer in range(2)
        for module in attention + feed_forward
        for side in "AB"
    }
    assert set(policy.modules) == {
        f"model.layers.{layer}.{module}" for layer in range(2) for module in attention + feed_forward
    }
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    assert all(base.get_submodule(name).weight.ndim == 2 for name in policy.modules)


def test_the_adapter_equals_the_files_that_peft_writes(make_learner: MakeLearner, tmp_path: Path) -> None:
    learner = make_learner()
    policy, _ = learner.step([group([1.0, 0.0])])
    learner._trainer.model.save_pretrained(tmp_path)
    written = load((tmp_path / "adapter_model.safetensors").read_bytes())
    assert written.keys() == weights(policy).keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in weights(policy).items())
    config, written_config = (
        json.loads(text)
        for text in (policy.adapter["adapter_config.json"], (tmp_path / "adapter_config.json").read_bytes())
    )
    assert sorted(config.pop("target_modules")) == sorted(written_config.pop("target_modules"))
    written_config["base_model_name_or_path"] = Path(written_config["base_model_name_or_path"]).name
    assert config == written_config


def test_a_resumed_run_reaches_the_same_adapter_bit_for_bit(make_learner: MakeLearner) -> None:
    steps = [[group([1.0, 0.0, 0.3], seed=seed), group([0.0, 0.2], seed=10 + seed)] for seed in range(4)]
    options: dict[str, Any] = {"max_steps": 4, "dropout": 0.05, "lr_scheduler_type": "cosine", "warmup_steps": 2}
    undisturbed = make_learner(checkpoints="one", **options)
    expected = [undisturbed.step(groups) for groups in steps]

    first = make_learner(checkpoints="two", **options)
    for groups in steps[:2]:
        first.step(groups)
    first.save_checkpoint()
    first.step(steps[2])  # lost, because it follows the checkpoint
    first.close()
    second = make_learner(checkpoints="two", **options)
    resumed = [second.step(groups) for groups in steps[2:]]

    for (policy, report), (expected_policy, expected_report) in zip(resumed, expected[2:], strict=True):
        assert policy.number == report.step == expected_policy.number
        assert policy.adapter == expected_policy.adapter
        assert report.metrics["learning_rate"] == expected_report.metrics["learning_rate"]
    with pytest.raises(LearnerError, match="max_steps of the run are done"):
        second.step(steps[0])
    assert second.save_checkpoint().endswith("checkpoint-4")


def test_start_returns_the_policy_of_the_newest_complete_checkpoint(
    model_folder: Path, make_learner: MakeLearner, tmp_path: Path
) -> None:
    from learner.worker import LearnerWorker

    learner = make_learner(max_steps=2)
    policies = [learner.step([group([1.0, 0.0])])[0] for _ in range(2)]
    saved = Path(learner.save_checkpoint())
    half_written = saved.parent / ".draft" / "checkpoint-3"
    half_written.mkdir(parents=True)
    (half_written / "adapter_model.safetensors").write_bytes(b"half")

    resumed = LearnerWorker(settings(), plan(model_folder, saved.parent, max_steps=2))
    assert resumed.start() == policies[1]
    with pytest.raises(LearnerError, match="max_steps of the run are done"):  # and TRL takes no extra step
        resumed.step([group([1.0, 0.0])])
    resumed.export_adapter(str(tmp_path / "final"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "final").iterdir()} == policies[1].adapter
    resumed.close()


def test_a_checkpoint_of_another_shape_or_without_a_file_is_refused_by_name(
    model_folder: Path, make_learner: MakeLearner
) -> None:
    from learner.lora_settings import LoraSettings
    from learner.worker import LearnerWorker

    learner = make_learner()
    learner.step([group([1.0, 0.0])])
    saved = Path(learner.save_checkpoint())
    other_rank = settings().model_copy(update={"lora": LoraSettings(r=16)})
    with pytest.raises(LearnerError, match=r"cannot resume from .*checkpoint-1: .*learner.lora") as caught:
        LearnerWorker(other_rank, plan(model_folder, saved.parent)).start()
    assert "\n" not in str(caught.value)
    (saved / "optimizer.pt").unlink()
    with pytest.raises(LearnerError, match=r"has no optimizer\.pt"):
        LearnerWorker(settings(), plan(model_folder, saved.parent)).start()


def test_a_failed_checkpoint_leaves_the_earlier_ones_and_the_run_intact(
    make_learner: MakeLearner,
) -> None:
    learner = make_learner()
    learner.step([group([1.0, 0.0])])
    earlier = Path(learner.save_checkpoint())
    learner.step([group([1.0, 0.0])])
    _, unlimited = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, unlimited))  # stands in for a full disk
    try:
        with pytest.raises(LearnerError, match=r"checkpoint cannot be written .* earlier checkpoints are intact"):
            learner.save_checkpoint()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(earlier.parent.iterdir()) == [earlier]
    learner.step([group([1.0, 0.0])])
    assert learner.save_checkpoint().endswith("checkpoint-3")


def test_a_kl_coefficient_measures_the_distance_to_the_model_without_adapter(make_learner: MakeLearner) -> None:
    learner = make_learner(kl_coefficient=0.1)
    divergences = [learner.step([group([1.0, 0.0, 0.5])])[1].metrics["kl"] for _ in range(3)]
    assert divergences[0] == pytest.approx(0.0, abs=1e-6)
    assert divergences[2] > divergences[1] > 1e-4
    assert "kl" not in make_learner(checkpoints="other").step([group([1.0, 0.0])])[1].metrics


def test_a_nan_loss_stops_the_learner_before_it_changes_the_adapter(make_learner: MakeLearner, tmp_path: Path) -> None:
    learner = make_learner()
    learner.step([group([1.0, 0.0])])
    checkpoint = learner.save_checkpoint()
    with pytest.raises(LearnerError, match="step 2 diverged: loss nan"):
        learner.step([group([1.0, 0.0], logprob=float("nan"))])
    with pytest.raises(LearnerError, match="step 2 diverged"):
        learner.step([group([1.0, 0.0])])
    assert Path(checkpoint).is_dir()


def test_num_iterations_takes_several_steps_on_a_batch_for_one_policy_version(
    model_folder: Path, make_learner: MakeLearner
) -> None:
    groups = some_groups(model_folder)
    twice = make_learner(num_iterations=2, max_steps=2)
    policy, report = twice.step(groups)
    assert (policy.number, report.step) == (1, 1)
    assert report.metrics["sampling/sampling_logp_difference/mean"] > 1e-3  # the second pass is no longer on policy
    single = make_learner(checkpoints="single", max_steps=4)
    single.step(groups)
    assert single.step(groups)[0].adapter == policy.adapter

    checkpoint = Path(twice.save_checkpoint())
    assert checkpoint.name == "checkpoint-1"
    with pytest.raises(LearnerError, match=r"cannot resume from .*num_iterations"):
        make_learner(num_iterations=1, max_steps=2)
    assert make_learner(num_iterations=2, max_steps=2).step(groups)[0].number == 2


def test_the_learning_rate_warms_up_and_decays_over_the_steps_of_the_run(make_learner: MakeLearner) -> None:
    learner = make_learner(max_steps=4, warmup_steps=2, lr_scheduler_type="linear", learning_rate=1e-3)
    rates = [learner.step([group([1.0, 0.0])])[1].metrics["learning_rate"] for _ in range(4)]
    assert rates == pytest.approx([0.0, 0.5e-3, 1e-3, 0.5e-3])


def test_in_bfloat16_the_ratio_stays_near_one_and_only_the_published_adapter_is_bfloat16(
    model_folder: Path, make_learner: MakeLearner, tmp_path: Path
) -> None:
    fixed = group([1.0]).completions[0]
    probe_ids = (*fixed.prompt_ids[-1:], *fixed.token_ids)
    learner = make_learner(dtype="bfloat16", kl_coefficient=0.1, planned={"probe_ids": (probe_ids,)})
    policy, report = learner.step(some_groups(model_folder))
    assert report.metrics["sampling/sampling_logp_difference/mean"] < 0.05
    assert report.metrics["sampling/importance_sampling_ratio/mean"] == pytest.approx(1.0, abs=0.05)
    assert {tensor.dtype for tensor in weights(policy).values()} == {torch.bfloat16}
    learner.export_adapter(str(tmp_path))
    kept = load((tmp_path / "adapter_model.safetensors").read_bytes())
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    assert all(torch.equal(kept[name].bfloat16(), tensor) for name, tensor in weights(policy).items())
    in_float32 = logprobs(model_folder, replace(fixed, prompt_ids=fixed.prompt_ids[-1:]), tmp_path, temperature=1.0)
    gaps = [abs(one - other) for one, other in zip(policy.probes[0].logprobs, in_float32, strict=True)]
    assert sum(gaps) / len(gaps) < 0.05


def test_gradient_checkpointing_gives_the_same_step(make_learner: MakeLearner) -> None:
    groups = [group([1.0, 0.0, 0.5])]
    plain = make_learner(checkpoints="plain").step(groups)[0]
    checkpointed = make_learner(checkpoints="checkpointed", gradient_checkpointing=True).step(groups)[0]
    assert furthest_apart(plain, checkpointed) < 1e-3


def test_a_step_reports_its_metrics(make_learner: MakeLearner) -> None:
    _, report = make_learner().step([group([1.0, 0.0])])
    names = {"loss", "grad_norm", "learning_rate", "entropy", "clip_ratio/region_mean", "num_completions", "seconds"}
    assert names <= report.metrics.keys()


def test_a_missing_model_is_named_in_one_line(tmp_path: Path) -> None:
    from learner.worker import LearnerWorker

    for missing in (tmp_path / "missing", tmp_path):  # no folder; a folder without a model
        with pytest.raises(ModelError, match=re.escape(str(missing))) as caught:
            LearnerWorker(settings(), plan(missing, tmp_path / "checkpoints")).start()
        assert "\n" not in str(caught.value)


def test_projections_that_the_model_lacks_are_refused(model_folder: Path, tmp_path: Path) -> None:
    from learner.lora_settings import LoraSettings
    from learner.worker import LearnerWorker

    other_targets = settings().model_copy(update={"lora": LoraSettings(target_modules=("c_attn",))})
    with pytest.raises(ConfigError, match="c_attn"):
        LearnerWorker(other_targets, plan(model_folder, tmp_path)).start()

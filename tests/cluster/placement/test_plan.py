"""The plan of a run: sizes of models, memory, placement, and refusals."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cluster.cli.main import main
from cluster.config.config import Config, dump_yaml
from cluster.config.load import load_config
from cluster.cores import usable_cores
from cluster.errors import ConfigError, ModelError, ResourcesError
from cluster.placement.gpu_facts import GpuFacts, MachineGpus
from cluster.placement.plan.gpu_defaults import with_kept_sizes
from cluster.placement.plan.learner_memory import learner_memory
from cluster.placement.plan.machines import GPUS, Gpu, Machine, machines_of, parse_machines, this_machine
from cluster.placement.plan.memory import sampler_memory
from cluster.placement.plan.model_shape import GIB, shape_from
from cluster.placement.plan.pace import Pace, SharedGpu, pace
from cluster.placement.plan.places import make_plan
from cluster.placement.plan.sharing import kv_cache_memory_bytes, samplers_per_gpu

QWEN_1_5B = {
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "num_hidden_layers": 28,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
SHAPE = shape_from(QWEN_1_5B)
QWEN_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "num_hidden_layers": 28,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}
SHAPE_7B = shape_from(QWEN_7B)
CONFIGS = Path(__file__).parents[3] / "configs"
SPLIT = ("tensor_parallel_size=2", "gpus_per_sampler=1", "gpu_memory_utilization=0.45")
FULL_DEMO = ("learner.method=full", "lora.r=32", "lora.alpha=64", "lora.dropout=0.05")
ONE_GPU, CLUSTER = CONFIGS / "qwen1.5b-1gpu.yaml", CONFIGS / "cluster.yaml"


def config_of(file: Path | None, *settings: str) -> Config:
    return load_config(file, settings, environment={})


def test_the_size_of_a_model_is_counted_from_its_configuration() -> None:
    assert SHAPE.num_parameters == 1_543_714_304  # as in its weights file
    assert SHAPE.cache_bytes_per_token("bfloat16") == 2 * 28 * 2 * 128 * 2
    # By hand: inputs + outputs of q, k, v, o, gate, up, down.
    per_layer = 3072 + 1792 + 1792 + 3072 + 10496 + 10496 + 10496
    assert SHAPE.num_adapter_parameters(32, list(SHAPE.projections)) == 28 * 32 * per_layer
    assert SHAPE.num_adapter_parameters(8, ["q_proj"]) == 28 * 8 * 3072


def test_the_parameters_of_the_built_in_model_are_counted() -> None:
    from transformers import AutoModelForCausalLM

    from cluster.config.model_path import model_path
    from cluster.placement.plan.model_shape import shape_of

    path = model_path(config_of(CONFIGS / "demo.yaml"))
    model = AutoModelForCausalLM.from_pretrained(path)
    assert shape_of(path).num_parameters == sum(each.numel() for each in model.parameters())


def test_an_untied_head_counts_twice_and_attention_without_bias_counts_none() -> None:
    untied = shape_from({**QWEN_1_5B, "tie_word_embeddings": False, "model_type": "llama"})
    assert untied.num_parameters - SHAPE.num_parameters == 151936 * 1536 - 28 * (12 + 2 * 2) * 128


def test_a_configuration_without_a_field_is_refused_with_its_name() -> None:
    with pytest.raises(ModelError, match="intermediate_size"):
        shape_from({name: value for name, value in QWEN_1_5B.items() if name != "intermediate_size"})


def test_the_cache_of_a_sampler_takes_the_remaining_memory() -> None:
    memory = sampler_memory(config_of(ONE_GPU), SHAPE, 24.0)
    assert memory.limit == pytest.approx(0.40 * 24)
    assert memory.parts["weights"] == pytest.approx(1_543_714_304 * 2 / GIB)
    assert memory.cache == pytest.approx(memory.limit - memory.total)
    assert memory.num_sequences == pytest.approx(memory.cache * GIB / 28672 / (704 + 512))


def test_a_merged_engine_holds_no_adapters() -> None:
    assert sampler_memory(config_of(ONE_GPU, "weight_sync_mode=merged"), SHAPE, 24.0).parts["adapters"] == 0
    assert sampler_memory(config_of(ONE_GPU), SHAPE, 24.0).parts["adapters"] > 0


def test_the_optimizer_is_counted_only_for_the_adapter() -> None:
    parts = learner_memory(config_of(ONE_GPU), SHAPE, 24.0).parts
    assert parts["adapter and optimizer"] == pytest.approx(36_929_536 * 16 / GIB)
    assert parts["weights"] == pytest.approx(1_543_714_304 * 2 / GIB)


def test_checkpointing_and_smaller_passes_reduce_the_memory_of_the_learner() -> None:
    kept = learner_memory(config_of(ONE_GPU, "gradient_checkpointing=false", "micro_batch_tokens=4096"), SHAPE, 24.0)
    half = learner_memory(config_of(ONE_GPU, "gradient_checkpointing=false", "micro_batch_tokens=2048"), SHAPE, 24.0)
    again = learner_memory(config_of(ONE_GPU, "gradient_checkpointing=true", "micro_batch_tokens=4096"), SHAPE, 24.0)
    # A larger pass has more completions per prompt.
    assert half.parts["activations"] == pytest.approx(kept.parts["activations"] / 2, rel=0.02)
    assert again.parts["activations"] < kept.parts["activations"] / 10
    assert again.parts["output head"] == kept.parts["output head"]


def test_a_pass_is_never_smaller_than_the_longest_completion() -> None:
    tiny = learner_memory(config_of(ONE_GPU, "micro_batch_tokens=64"), SHAPE, 24.0)
    whole = learner_memory(config_of(ONE_GPU, f"micro_batch_tokens={704 + 512}"), SHAPE, 24.0)
    assert tiny.parts == whole.parts


def test_one_gpu_of_24_gib_holds_sampler_and_learner() -> None:
    plan = make_plan(config_of(ONE_GPU), SHAPE, parse_machines(["cpus=16,gpus=1,gpu_gib=24"]))
    (node,) = plan.nodes
    assert node.on_gpus == [["learner (0.45)", "sampler 0 (0.45)"]]
    assert node.num_graders == 4
    assert plan.on_gpus is not None and plan.on_gpus.learner is not None
    assert plan.on_gpus.learner.limit == pytest.approx(24 * 0.60)


def test_a_learner_that_does_not_fit_by_estimate_is_reported_with_the_numbers_and_not_refused() -> None:
    config = config_of(ONE_GPU, "gradient_checkpointing=false", "micro_batch_tokens=8192")
    plan = make_plan(config, SHAPE, parse_machines(["cpus=16,gpus=1,gpu_gib=24"]))
    (line,) = plan.shortages
    assert re.search(
        r"weights 2\.9 \+ .* GiB, and has 14\.4 GiB of 24\.0 GiB, next to 1 sampler with 9\.6 GiB.*micro_batch_tokens",
        line,
    )


def test_a_sampler_without_space_for_one_completion_is_reported() -> None:
    plan = make_plan(config_of(ONE_GPU), SHAPE, parse_machines(["cpus=16,gpus=1,gpu_gib=12"]))
    assert "a sampler does not fit" in plan.shortages[0]


TWO_H100 = ["cpus=32,gpus=2,gpu=H100"]


def test_a_sampler_that_does_not_fit_has_no_negative_cache_and_no_pace() -> None:
    config = config_of(None, "max_num_batched_tokens=10000000")
    plan = make_plan(config, SHAPE_7B, parse_machines(TWO_H100))
    (line,) = plan.shortages
    assert "activations 972.7" in line and "max_num_batched_tokens" in line
    assert "-" not in re.sub(r"[a-z]-[a-z]", "", line)  # no negative number
    assert plan.on_gpus is not None and plan.on_gpus.pace is None
    assert "No pace is estimated: a sampler does not fit." in plan.advice
    assert not any("KV cache holds" in advice for advice in plan.advice)


@pytest.mark.parametrize(("setting", "part"), [("learner.gpus=0", "learner"), ("gpus_per_sampler=0", "samplers")])
def test_without_a_part_on_gpus_no_pace_is_estimated_and_the_reason_is_the_part(setting: str, part: str) -> None:
    plan = make_plan(config_of(None, setting), SHAPE, parse_machines(TWO_H100))
    assert f"No pace is estimated: the {part} would run on the CPU." in plan.advice


def test_a_kv_cache_that_is_set_too_large_is_refused_with_its_setting() -> None:
    config = config_of(None, "kv_cache_memory_bytes=900000000000")
    with pytest.raises(
        ResourcesError, match=r"KV cache 838\.2 GiB exceed .*lower rollout\.kv_cache_memory_bytes"
    ) as error:
        make_plan(config, SHAPE_7B, parse_machines(TWO_H100))
    assert "gpu_memory_utilization" not in str(error.value)


def test_a_learner_that_its_share_does_not_hold_is_reported_with_the_share() -> None:
    plan = make_plan(config_of(None, "gpu_memory_share=0.05"), SHAPE_7B, parse_machines(TWO_H100))
    (line,) = plan.shortages
    assert "Raise learner.gpu_memory_share=0.05" in line


def test_no_machine_keeps_less_than_nothing() -> None:
    plan = make_plan(config_of(None), SHAPE, parse_machines(["cpus=2"]))  # shares of 0.8, 0.8 and twice 0.2 cores
    assert [node.cpus for node in plan.nodes] == [0.0]


def test_the_memory_of_every_sampler_on_the_learners_gpu_is_subtracted_from_the_learners() -> None:
    config = config_of(None, "num_samplers=2")
    plan = make_plan(config, SHAPE, parse_machines(["cpus=16,gpus=1,gpu=H100"]))
    assert (plan.config.rollout.gpus_per_sampler, plan.config.learner.gpus) == (0.33, 0.33)
    found = plan.on_gpus
    assert found is not None and found.learner is not None and found.sampler is not None
    assert (found.samplers_with_learner, found.samplers_together) == (2, 2)
    assert found.sampler.limit == pytest.approx(0.28 * 79.1, abs=0.1)
    assert found.learner.limit == pytest.approx(34.7, abs=0.1)  # 79.1 - 2 x 22.2
    # Samplers that start later take their share of the same GPU.
    grown = config_of(None, "max_samplers=3", "gpus_per_sampler=0.2", "learner.gpus=0.4")
    assert samplers_per_gpu(grown, next_to_learner=True) == 3
    assert samplers_per_gpu(config_of(CLUSTER), next_to_learner=True) == 0


def test_samplers_that_together_exceed_their_gpu_are_reported() -> None:
    config = config_of(None, "num_samplers=2", "gpus_per_sampler=0.5", "learner.gpus=1", "gpu_memory_utilization=0.85")
    plan = make_plan(config, SHAPE, parse_machines(["cpus=16,gpus=2,gpu=H100"]))
    (line,) = plan.shortages
    assert re.search(r"2 samplers may share a H100 .* take 2 x 67\.2 = 134\.5 of 79\.1 GiB.*at most 0\.5,", line)


def test_samplers_that_share_a_gpu_get_an_explicit_kv_cache_unless_one_is_set() -> None:
    machines = parse_machines(["cpus=16,gpus=1,gpu=H100"])
    plan = make_plan(config_of(None, "num_samplers=2"), SHAPE, machines)
    assert plan.on_gpus is not None and plan.on_gpus.sampler is not None
    filled = plan.config.rollout.kv_cache_memory_bytes
    assert filled is not None
    assert filled == pytest.approx(plan.on_gpus.sampler.cache * GIB, abs=1)
    assert plan.filled_in is not None and f"rollout.kv_cache_memory_bytes={filled}" in plan.filled_in
    # With the explicit cache an engine takes as much as its share of the memory.
    assert sampler_memory(plan.config, SHAPE, 79.1).total + filled / GIB == pytest.approx(plan.on_gpus.sampler.limit)
    set_by_hand = make_plan(config_of(None, "num_samplers=2", "kv_cache_memory_bytes=2000000000"), SHAPE, machines)
    assert set_by_hand.config.rollout.kv_cache_memory_bytes == 2_000_000_000
    assert set_by_hand.on_gpus is not None and set_by_hand.on_gpus.sampler is not None
    assert set_by_hand.on_gpus.sampler.cache == pytest.approx(2e9 / GIB)
    alone = make_plan(config_of(CLUSTER), SHAPE, parse_machines(["cpus=96,gpus=9,gpu=H100"]))
    assert alone.config.rollout.kv_cache_memory_bytes is None


def test_an_engine_that_seems_too_large_for_its_share_still_gets_one_completion() -> None:
    config = config_of(ONE_GPU)
    size = kv_cache_memory_bytes(config, SHAPE, 12.0)
    assert size == (704 + 512 + 64) * SHAPE.cache_bytes_per_token("bfloat16")


@pytest.mark.parametrize(
    ("settings", "machine", "words"),
    [
        ((), "cpus=16,gpus=1,gpu=RTX4090", r"cannot fit on 1 GPU with 23\.6 GiB: .* 1 x 14\.3 .* \+ 1 x 14\.8"),
        (("num_samplers=2", "gpus_per_sampler=0.3", "learner.gpus=0.3"), "cpus=16,gpus=1,gpu_gib=40", r" 2 x 14\.3"),
        (("learner.gpus=0",), "cpus=16,gpus=1,gpu_gib=12", r"a sampler cannot run .* exceed the 10\.2 GiB"),
        (("gpus_per_sampler=0",), "cpus=16,gpus=1,gpu_gib=12", r"the learner cannot run on these GPUs: .* 14\.8 GiB"),
        (("kv_cache_memory_bytes=1000",), "cpus=16,gpus=1,gpu=H100", r"kv_cache_memory_bytes=1000 is less than one"),
    ],
)
def test_weights_and_caches_that_no_gpu_can_hold_are_refused(
    settings: tuple[str, ...], machine: str, words: str
) -> None:
    with pytest.raises(ResourcesError, match=words):
        make_plan(config_of(None, *settings), SHAPE_7B, parse_machines([machine]))


def test_quantized_parts_of_a_7b_model_fit_on_a_small_gpu() -> None:
    machine = parse_machines(["cpus=16,gpus=1,gpu=RTX4090"])
    halves = ("gpus_per_sampler=0.5", "learner.gpus=0.5", "gpu_memory_utilization=0.45", "max_concurrent_requests=8")
    small = (
        *halves,
        "learner.quantization=nf4",
        "rollout.engine.quantization=fp8",
        "rollout.engine.kv_cache_dtype=fp8",
    )
    with pytest.raises(ResourcesError):
        make_plan(config_of(None, *halves), SHAPE_7B, machine)
    memory = make_plan(config_of(None, *small), SHAPE_7B, machine).on_gpus
    assert memory is not None and memory.sampler is not None and memory.learner is not None
    plain = sampler_memory(config_of(None, *halves), SHAPE_7B, 24.0)
    assert memory.sampler.gib_per_sequence == pytest.approx(plain.gib_per_sequence / 2)
    assert 0.5 < memory.sampler.parts["weights"] / plain.parts["weights"] < 0.6
    assert memory.learner.parts["weights"] < 0.45 * plain.parts["weights"]
    offloaded = sampler_memory(config_of(None, *small, "rollout.engine.cpu_offload_gb=2"), SHAPE_7B, 24.0)
    assert offloaded.parts["weights"] == pytest.approx(memory.sampler.parts["weights"] - 2)


def test_no_run_is_refused_for_memory_if_the_memory_of_a_gpu_is_unknown() -> None:
    unknown = Machine(name="b", cpus=16, num_gpus=1, gpu=Gpu(name="Z9", gib=None))
    plan = make_plan(config_of(None), SHAPE_7B, [*parse_machines(["cpus=16,gpus=1,gpu=RTX4090"]), unknown])
    assert plan.shortages


def test_every_part_is_placed_on_many_machines_and_graders_are_on_nodes_without_gpus() -> None:
    machines = parse_machines(["cpus=96,gpus=8,gpu=H100,count=4", "cpus=64,count=2"])
    plan = make_plan(config_of(CLUSTER, "num_samplers=31", "num_ranks=1"), SHAPE, machines)
    on_gpus = [name for node in plan.nodes for names in node.on_gpus for name in names]
    assert sorted(on_gpus) == sorted(["learner", *(f"sampler {number}" for number in range(31))])
    assert [node.num_graders for node in plan.nodes] == [0, 0, 0, 0, 16, 16]


@pytest.mark.parametrize(("num_ranks", "of_machines"), [(2, [0, 2]), (4, [0, 4]), (5, [1, 4])])
def test_ranks_are_on_the_first_machine_that_fits_all(num_ranks: int, of_machines: list[int]) -> None:
    machines = parse_machines(["cpus=32,gpus=1,gpu=H100", "cpus=64,gpus=4,gpu=H100", "cpus=8,gpus=1,gpu=H100"])
    plan = make_plan(config_of(CLUSTER, f"num_ranks={num_ranks}", "num_samplers=1"), SHAPE, machines)
    ranks = [sum(name.startswith("learner") for names in node.on_gpus for name in names) for node in plan.nodes]
    assert ranks[:2] == of_machines


def test_no_machine_is_given_more_than_it_has() -> None:
    machines = parse_machines(["cpus=12,gpus=4,gpu=L40S,count=3", "cpus=9"])
    plan = make_plan(
        config_of(CLUSTER, "num_samplers=10", "num_graders=40", "learner.num_ranks=2", "micro_batch_tokens=4096"),
        SHAPE,
        machines,
    )
    for node in plan.nodes:
        names = [name for names in node.on_gpus for name in names]
        assert all(len(names) <= 1 for names in node.on_gpus)
        cores = sum(2 if name.startswith("sampler") else 1 for name in names)  # a sampler on a GPU has two processes
        assert cores + 0.25 * node.num_graders + node.cpus == pytest.approx(node.machine.cpus)
        assert node.cpus >= -1e-6
    assert sum(node.num_graders for node in plan.nodes) == 40


def test_each_gpu_of_a_split_engine_holds_its_part_of_weights_and_cache() -> None:
    whole, split = (sampler_memory(config_of(ONE_GPU, *some), SHAPE, 80.0) for some in ((), SPLIT))
    assert split.parts["weights"] == pytest.approx(whole.parts["weights"] / 2)
    assert split.parts["adapters"] == whole.parts["adapters"]
    assert SHAPE.cache_bytes_per_token("bfloat16", 2) == SHAPE.cache_bytes_per_token("bfloat16") / 2
    # The model has two key-value heads: each of four GPUs has one of them.
    assert SHAPE.cache_bytes_per_token("bfloat16", 4) == SHAPE.cache_bytes_per_token("bfloat16", 2)


def test_an_engine_that_is_split_has_its_gpus_on_one_machine() -> None:
    machines = parse_machines(["cpus=32,gpus=3,gpu=H100,count=2"])
    plan = make_plan(config_of(CLUSTER, "num_samplers=2", "tensor_parallel_size=2", "num_ranks=1"), SHAPE, machines)
    assert [node.on_gpus for node in plan.nodes] == [
        [["learner"], ["sampler 0"], ["sampler 0"]],
        [["sampler 1"], ["sampler 1"], []],
    ]
    with pytest.raises(
        ResourcesError, match=r"sampler 0 needs 6 CPU and 4 GPU on one machine.*machine 1: \d+ CPU, 0 GPU, 1 GPU"
    ):
        make_plan(config_of(CLUSTER, "num_samplers=1", "tensor_parallel_size=4", "num_ranks=1"), SHAPE, machines)


def test_a_model_whose_heads_cannot_be_split_is_refused_with_the_possible_sizes() -> None:
    machines = parse_machines(["cpus=32,gpus=9,gpu=H100"])
    with pytest.raises(
        ModelError, match=r"=8 does not split .* 12 attention heads and 2 heads .*: possible are 1, 2, 4, 6, 12"
    ):
        make_plan(config_of(CLUSTER, "num_samplers=1", "tensor_parallel_size=8", "num_ranks=1"), SHAPE, machines)


def test_samplers_above_the_minimum_need_no_place() -> None:
    machines = parse_machines(["cpus=32,gpus=3,gpu=H100"])
    plan = make_plan(
        config_of(CLUSTER, "num_ranks=1", "num_samplers=8", "min_samplers=2", "max_samplers=8"), SHAPE, machines
    )
    (node,) = plan.nodes
    assert node.on_gpus == [["learner"], ["sampler 0"], ["sampler 1"]]
    with pytest.raises(ResourcesError, match="3 samplers x 1 "):
        make_plan(
            config_of(CLUSTER, "num_ranks=1", "num_samplers=8", "min_samplers=3", "max_samplers=8"), SHAPE, machines
        )


def test_a_plan_reports_how_far_pools_can_grow_next_to_the_parts_that_start() -> None:
    bounds = (
        "num_samplers=1",
        "max_samplers=9",
        "num_graders=2",
        "max_graders=6",
        "gpus_per_sampler=0",
        "learner.gpus=0",
    )
    sizes = ("cpus_per_sampler=2", "cpus_per_grader=1", "learner.cpus=1")
    small = make_plan(config_of(None, *bounds, *sizes), SHAPE, [Machine(name="a", cpus=9, num_gpus=0, gpu=None)])
    assert [line for line in small.advice if "max_" in line] == [
        "rollout.max_samplers=9: there is room for 3 samplers at most; more start when machines join.",
        "grader.max_graders=6: there is room for 6 graders.",
    ]
    exact = make_plan(config_of(None, *bounds, *sizes), SHAPE, [Machine(name="a", cpus=5, num_gpus=0, gpu=None)])
    assert "room for 1 sampler at most" in exact.advice[0]
    assert "room for 2 graders at most" in exact.advice[1]


def test_parts_that_fit_in_sum_but_on_no_machine_are_refused_with_the_free_resources() -> None:
    machines = parse_machines(["cpus=2,count=4"])
    with pytest.raises(ResourcesError, match=r"learner needs 4 CPU and 0 GPU on one machine.*machine 1: 2 CPU"):
        make_plan(config_of(CONFIGS / "demo.yaml", "learner.cpus=4"), SHAPE, machines)


def test_the_name_of_a_gpu_ignores_case_and_its_memory_may_be_set() -> None:
    (machine,) = parse_machines(["cpus=8,gpus=1,gpu=h100,gpu_gib=94"])
    assert machine.gpu is not None
    assert (machine.gpu.gib, machine.gpu.tflops) == (94, GPUS["H100"].tflops)
    assert parse_machines(["cpus=8,gpu=a100-80g"])[0].gpu == GPUS["A100-80G"]


def test_samplers_that_do_not_speed_up_the_run_are_reported() -> None:
    config = config_of(CLUSTER, "num_samplers=31", "num_ranks=1")
    plan = make_plan(config, SHAPE, parse_machines(["cpus=96,gpus=8,gpu=H100,count=4"]))
    assert any("samplers would do" in line for line in plan.advice)


def test_the_plan_says_how_many_samplers_one_driver_feeds() -> None:
    settings = (
        "num_samplers=24",
        "learner.num_ranks=8",
        "groups_per_step=4096",
        "num_graders=4000",
        "max_graders=4000",
    )
    machines = parse_machines(["cpus=4096,gpus=8,gpu=H100,count=4"])
    plan = make_plan(config_of(CLUSTER, *settings), SHAPE, machines)
    assert plan.on_gpus is not None and plan.on_gpus.pace is not None
    speed = plan.on_gpus.pace
    assert speed.bottleneck == "the driver" and speed.step == speed.driving > speed.sampling
    assert speed.fed_samplers == int(24 * speed.sampling / speed.driving) < 24
    assert any(f"It keeps up with {speed.fed_samplers} samplers of the 24" in line for line in plan.advice)


def test_more_ranks_shorten_learning_and_more_samplers_shorten_sampling() -> None:
    gpu, config = GPUS["H100"], config_of(CLUSTER)
    memory = gpu.gib
    assert memory is not None

    alone = SharedGpu(samplers=1, with_learner=False)

    def of(*settings: str) -> Pace:
        one = config_of(CLUSTER, "learner.num_ranks=1", *settings)
        found = pace(one, SHAPE, gpu, sampler_memory(one, SHAPE, memory), alone, grading_cpus=64)
        assert found is not None
        return found

    assert of("learner.num_ranks=2").learning == pytest.approx(of().learning / 2)
    assert of("num_samplers=4").sampling > of().sampling
    assert of("num_graders=16").grading == pytest.approx(2 * of().grading)
    assert of("max_staleness=0").step > of().step == max(of().sampling, of().grading, of().learning, of().driving)
    assert of("gradient_checkpointing=true").learning > 2 * of().learning  # and prompts are not shared
    assert pace(config, SHAPE, Gpu(name="?", gib=80), sampler_memory(config, SHAPE, 80), alone, grading_cpus=1) is None


def test_parts_that_share_a_gpu_compute_alternately_at_its_full_speed() -> None:
    gpu = GPUS["H100"]

    def of(shared: SharedGpu, *settings: str) -> Pace:
        config = config_of(None, *settings)
        found = pace(config, SHAPE, gpu, sampler_memory(config, SHAPE, 79.1), shared, grading_cpus=64)
        assert found is not None
        return found

    alone, with_learner = SharedGpu(samplers=1, with_learner=False), SharedGpu(samplers=1, with_learner=True)
    halves, whole = ("gpus_per_sampler=0.5", "learner.gpus=0.5"), ("gpus_per_sampler=1", "learner.gpus=1")
    assert of(with_learner, *halves).step == of(alone, *whole).step  # without staleness they never compute together
    assert of(alone, *whole, "max_staleness=1").step < of(alone, *whole).step
    # With staleness their work adds up, and only the pauses of the engine are filled.
    shared = of(with_learner, *halves, "max_staleness=1", "kl_coefficient=0.1", "num_iterations=4")
    assert shared.learning + 0.1 * shared.sampling < shared.step < shared.learning + shared.sampling
    # Two samplers on one GPU divide it.
    two = of(SharedGpu(samplers=2, with_learner=False), "num_samplers=2", "gpus_per_sampler=0.5")
    apart = of(alone, "num_samplers=2", "gpus_per_sampler=1")
    assert apart.sampling < two.sampling < 2 * apart.sampling


def test_the_configuration_of_a_cluster_is_balanced_on_a_node_of_eight_gpus() -> None:
    plan = make_plan(config_of(CLUSTER), SHAPE, parse_machines(["cpus=96,gpus=8,gpu=H100", "cpus=64"]))
    assert [names for names in plan.nodes[0].on_gpus if not names] == []
    assert plan.on_gpus is not None and plan.on_gpus.pace is not None
    speed = plan.on_gpus.pace
    assert 0.7 < speed.learning / speed.sampling < 1.4


@pytest.mark.parametrize(
    ("machine", "prefill", "micro_batch"),
    [("gpu=RTX4090", 2048, 2048), ("gpu=A100", 8192, 4096), ("gpu=H100", 8192, 8192), ("gpu=H200", 8192, 16384)],
)
def test_the_sizes_of_passes_depend_on_the_gpus_memory(machine: str, prefill: int, micro_batch: int) -> None:
    machines = parse_machines([f"cpus=32,gpus=2,{machine}"])
    plan = make_plan(config_of(None), SHAPE, machines)
    assert plan.config.rollout.max_num_batched_tokens == prefill
    assert plan.config.learner.micro_batch_tokens == micro_batch
    assert plan.filled_in is not None and f"rollout.max_num_batched_tokens={prefill}" in plan.filled_in
    assert plan.on_gpus is not None and plan.on_gpus.learner is not None
    assert plan.on_gpus.learner.total == pytest.approx(learner_memory(plan.config, SHAPE, 0).total)
    by_hand = make_plan(config_of(None, "micro_batch_tokens=3000", "max_num_batched_tokens=500"), SHAPE, machines)
    assert (by_hand.config.learner.micro_batch_tokens, by_hand.config.rollout.max_num_batched_tokens) == (3000, 500)


def test_a_run_keeps_the_sizes_of_passes_and_not_its_shares() -> None:
    config = config_of(None)
    plan = make_plan(config, SHAPE, parse_machines(["cpus=32,gpus=1,gpu=H100"]))
    kept = yaml.safe_load(dump_yaml(with_kept_sizes(config, plan.config)))
    assert kept["rollout"]["max_num_batched_tokens"] == 8192
    assert kept["learner"]["micro_batch_tokens"] == plan.config.learner.micro_batch_tokens
    assert not {"gpus_per_sampler", "kv_cache_memory_bytes", "gpu_memory_utilization"} & set(kept["rollout"])
    small = make_plan(config, SHAPE, parse_machines(["cpus=32,gpus=1,gpu=RTX4090"])).config
    on_cpus = make_plan(config, SHAPE, parse_machines(["cpus=32"])).config
    for placed in (small, on_cpus):
        assert yaml.safe_load(dump_yaml(with_kept_sizes(config, placed)))["learner"]["micro_batch_tokens"] == 2048
    unknown = make_plan(config, SHAPE, [Machine(name="a", cpus=16, num_gpus=1, gpu=Gpu(name="Z9", gib=None))]).config
    kept = yaml.safe_load(dump_yaml(with_kept_sizes(config, unknown)))
    assert "micro_batch_tokens" not in kept["learner"] and "max_num_batched_tokens" not in kept["rollout"]


def test_machines_are_read_from_ray_and_their_gpus_from_the_driver() -> None:
    def node(name: str, alive: bool = True, **resources: float) -> dict[str, object]:
        return {"Alive": alive, "NodeManagerAddress": f"10.0.0.{name}", "NodeID": name, "Resources": resources}

    nodes = [node("1", CPU=8, GPU=2), node("2", CPU=4), node("3", alive=False, CPU=4), node("4", CPU=4, GPU=1)]
    h100 = GpuFacts(name="NVIDIA H100 PCIe", total_bytes=79 * GIB, driver="580.1", compute_capability=(9, 0))
    gpus = {"1": MachineGpus(gpus=(h100, h100)), "4": MachineGpus(error="no driver")}
    speed = GPUS["H100"]
    assert machines_of(nodes, gpus) == [
        Machine(name="10.0.0.1", cpus=8, num_gpus=2, gpu=replace(speed, name="H100 PCIe", gib=79.0)),
        Machine(name="10.0.0.2", cpus=4),
        Machine(name="10.0.0.4", cpus=4, num_gpus=1, gpu=Gpu(name="GPU", gib=None)),
    ]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("gpus=1", "name the GPUs"),
        ("cpus=4,gpu=Z9", "not known here"),
        ("cpus=four", "no number"),
        ("gpus=1,gpu=H100", "cpus=NUMBER is missing"),
        ("cpus=4,cpus=5", "each once"),
        ("cpus=4,disk=5", "disk=5"),
        ("cpus=-1", "no machine"),
        ("cpus=4,count=0", "no machine with count=0"),
        ("cpus=4,gpus=1,gpu_gib=0", "no machine with gpu_gib=0"),
        ("cpus=4,gpus=1.5,gpu=H100", "no machine"),
        ("", "an example"),
    ],
)
def test_a_machine_that_cannot_be_read_is_refused_with_what_is_wrong(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse_machines([text])


def test_the_command_prints_the_plan_and_refuses_what_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**QWEN_1_5B, "architectures": ["Qwen2ForCausalLM"]}))
    settings = ["plan", "-c", str(CLUSTER), f"model.path={tmp_path}"]
    assert main([*settings, "--machine", "cpus=96,gpus=9,gpu=H100"]) == 0
    printed = capsys.readouterr().out
    assert "sampler 4" in printed and "KV cache" in printed and "A step takes about" in printed
    assert main([*settings, "--machine", "cpus=96,gpus=2,gpu=H100", "num_samplers=2"]) == 1
    assert "needs 5 GPU" in capsys.readouterr().err
    assert main([*settings, "--machine", "cpus=96,gpus=8,gpu=H100", "micro_batch_tokens=65536"]) == 1
    shown = capsys.readouterr()
    assert "Does not fit, by estimate: the learner" in shown.out and "1 part of the run will not fit" in shown.err


def test_without_a_cluster_the_plan_is_for_this_machine_and_ray_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("Ray starts")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("cluster.placement.ray_address._address_file", lambda: tmp_path / "none")
    monkeypatch.setattr(ray, "init", refuse)
    assert main(["plan", "model.path=tiny", "dataset=builtin"]) == 0
    assert "this machine" in capsys.readouterr().out
    assert this_machine().cpus == usable_cores()


def test_training_all_weights_keeps_16_bytes_per_parameter_and_4_more_for_the_reference() -> None:
    def memory(*settings: str) -> dict[str, float]:
        config = config_of(ONE_GPU, "learner.method=full", *settings)
        return dict(learner_memory(config, SHAPE, 80.0).parts)

    gib = SHAPE.num_parameters / GIB
    parts = memory()
    kept = {name: parts[name] / gib for name in ("weights", "gradients", "optimizer", "cast weights")}
    assert kept == pytest.approx({"weights": 4, "gradients": 4, "optimizer": 8, "cast weights": 2})
    assert "reference" not in parts
    assert memory("optim=sgd").keys() == parts.keys() - {"optimizer"}
    assert "cast weights" not in memory("learner.dtype=float32")
    later = json.dumps([{"from_step": 5, "set": {"learner.kl_coefficient": 0.1}}])
    for settings in ("kl_coefficient=0.1", f"schedule={later}"):
        assert memory(settings)["reference"] / gib == pytest.approx(4)
    assert learner_memory(config_of(ONE_GPU), SHAPE, 80.0).total < sum(parts.values()) / 2


def test_the_plan_states_what_training_all_weights_keeps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-c", str(CONFIGS / "demo.yaml"), *FULL_DEMO, "--machine", "cpus=4"]) == 0
    printed = capsys.readouterr().out
    assert "trained weights: all 1,772,480 of the model" in printed
    assert "main memory: weights 0.0066 GiB, gradients 0.0066 GiB, optimizer 0.013 GiB" in printed

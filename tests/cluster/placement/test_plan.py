"""The plan of a run: sizes of models, memory, placement, and refusals."""

import json
from pathlib import Path

import pytest

from cluster.cli.main import main
from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.errors import ConfigError, ModelError, ResourcesError
from cluster.placement.local_ray import num_cores
from cluster.placement.plan.machines import GPUS, Gpu, Machine, machines_of, parse_machines, this_machine
from cluster.placement.plan.memory import GIB, learner_memory, sampler_memory
from cluster.placement.plan.model_shape import shape_from
from cluster.placement.plan.pace import Pace, pace
from cluster.placement.plan.places import make_plan

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
CONFIGS = Path(__file__).parents[3] / "configs"
SPLIT = ("tensor_parallel_size=2", "gpus_per_sampler=1", "gpu_memory_utilization=0.45")
ONE_GPU, CLUSTER = CONFIGS / "qwen1.5b-1gpu.yaml", CONFIGS / "cluster.yaml"


def config_of(file: Path | None, *settings: str) -> Config:
    return load_config(file, settings, environment={})


def test_the_size_of_a_model_is_counted_from_its_configuration() -> None:
    assert SHAPE.num_parameters == 1_543_714_304  # what its weights' file says
    assert SHAPE.cache_bytes_per_token("bfloat16") == 2 * 28 * 2 * 128 * 2
    # By hand: inputs + outputs of q, k, v, o, gate, up, down.
    per_layer = 3072 + 1792 + 1792 + 3072 + 10496 + 10496 + 10496
    assert SHAPE.num_adapter_parameters(32, list(SHAPE.projections)) == 28 * 32 * per_layer
    assert SHAPE.num_adapter_parameters(8, ["q_proj"]) == 28 * 8 * 3072


def test_the_built_in_model_is_counted_right() -> None:
    from transformers import AutoModelForCausalLM

    from cluster.config.model_path import model_path
    from cluster.placement.plan.model_shape import shape_of

    path = model_path(config_of(CONFIGS / "demo.yaml"))
    model = AutoModelForCausalLM.from_pretrained(path)
    assert shape_of(path).num_parameters == sum(one.numel() for one in model.parameters())


def test_an_untied_head_counts_twice_and_attention_without_bias_counts_none() -> None:
    untied = shape_from({**QWEN_1_5B, "tie_word_embeddings": False, "model_type": "llama"})
    assert untied.num_parameters - SHAPE.num_parameters == 151936 * 1536 - 28 * (12 + 2 * 2) * 128


def test_a_model_of_another_family_is_refused_by_the_name_of_what_it_lacks() -> None:
    with pytest.raises(ModelError, match="intermediate_size"):
        shape_from({name: value for name, value in QWEN_1_5B.items() if name != "intermediate_size"})


def test_a_sampler_gives_to_the_cache_what_the_rest_leaves() -> None:
    memory = sampler_memory(config_of(ONE_GPU), SHAPE, 24.0)
    assert memory.limit == pytest.approx(0.45 * 24)
    assert memory.parts["weights"] == pytest.approx(1_543_714_304 * 2 / GIB)
    assert memory.cache == pytest.approx(memory.limit - memory.total)
    assert memory.num_sequences == pytest.approx(memory.cache * GIB / 28672 / (704 + 512))


def test_a_merged_engine_holds_no_adapters() -> None:
    assert sampler_memory(config_of(ONE_GPU, "weight_sync_mode=merged"), SHAPE, 24.0).parts["adapters"] == 0
    assert sampler_memory(config_of(ONE_GPU), SHAPE, 24.0).parts["adapters"] > 0


def test_the_optimizer_is_counted_for_the_adapter_alone() -> None:
    parts = learner_memory(config_of(ONE_GPU), SHAPE, 24.0).parts
    assert parts["adapter and optimizer"] == pytest.approx(36_929_536 * 16 / GIB)
    assert parts["weights"] == pytest.approx(1_543_714_304 * 2 / GIB)


def test_checkpointing_and_smaller_passes_take_less_of_the_learner() -> None:
    kept = learner_memory(config_of(ONE_GPU, "gradient_checkpointing=false", "micro_batch_tokens=4096"), SHAPE, 24.0)
    half = learner_memory(config_of(ONE_GPU, "gradient_checkpointing=false", "micro_batch_tokens=2048"), SHAPE, 24.0)
    again = learner_memory(config_of(ONE_GPU, "gradient_checkpointing=true", "micro_batch_tokens=4096"), SHAPE, 24.0)
    assert half.parts["activations"] == pytest.approx(kept.parts["activations"] / 2)
    assert again.parts["activations"] < kept.parts["activations"] / 10
    assert again.parts["logits"] == kept.parts["logits"]


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
    assert plan.on_gpus.learner.limit == pytest.approx(24 * 0.55)


def test_a_learner_that_does_not_fit_is_refused_with_the_sum() -> None:
    config = config_of(ONE_GPU, "gradient_checkpointing=false")
    with pytest.raises(ResourcesError, match=r"weights 2\.9 \+ .* GiB, and has 13\.2 GiB.*micro_batch_tokens"):
        make_plan(config, SHAPE, parse_machines(["cpus=16,gpus=1,gpu_gib=24"]))


def test_a_sampler_without_room_for_one_completion_is_refused() -> None:
    with pytest.raises(ResourcesError, match="a sampler does not fit"):
        make_plan(config_of(ONE_GPU), SHAPE, parse_machines(["cpus=16,gpus=1,gpu_gib=12"]))


def test_on_many_machines_every_part_has_a_place_and_graders_keep_off_the_gpus() -> None:
    machines = parse_machines(["cpus=96,gpus=8,gpu=H100,count=4", "cpus=64,count=2"])
    plan = make_plan(config_of(CLUSTER, "num_samplers=31"), SHAPE, machines)
    on_gpus = [name for node in plan.nodes for names in node.on_gpus for name in names]
    assert sorted(on_gpus) == sorted(["learner", *(f"sampler {number}" for number in range(31))])
    assert [node.num_graders for node in plan.nodes] == [0, 0, 0, 0, 16, 16]


def test_no_machine_is_given_more_than_it_has() -> None:
    machines = parse_machines(["cpus=6,gpus=4,gpu=L40S,count=3", "cpus=9"])
    plan = make_plan(
        config_of(CLUSTER, "num_samplers=10", "num_graders=40", "learner.num_ranks=2", "micro_batch_tokens=4096"),
        SHAPE,
        machines,
    )
    for node in plan.nodes:
        names = [name for names in node.on_gpus for name in names]
        assert all(len(names) <= 1 for names in node.on_gpus)
        assert len(names) + 0.25 * node.num_graders + node.cpus == pytest.approx(node.machine.cpus)
        assert node.cpus >= -1e-6
    assert sum(node.num_graders for node in plan.nodes) == 40


def test_an_engine_that_is_split_over_gpus_keeps_of_weights_and_cache_its_part_on_each() -> None:
    whole, split = (sampler_memory(config_of(ONE_GPU, *some), SHAPE, 80.0) for some in ((), SPLIT))
    assert split.parts["weights"] == pytest.approx(whole.parts["weights"] / 2)
    assert split.parts["adapters"] == whole.parts["adapters"]
    assert SHAPE.cache_bytes_per_token("bfloat16", 2) == SHAPE.cache_bytes_per_token("bfloat16") / 2
    # There are two heads of keys and values: on four GPUs each has one of them.
    assert SHAPE.cache_bytes_per_token("bfloat16", 4) == SHAPE.cache_bytes_per_token("bfloat16", 2)


def test_an_engine_that_is_split_has_its_gpus_on_one_machine() -> None:
    machines = parse_machines(["cpus=32,gpus=3,gpu=H100,count=2"])
    plan = make_plan(config_of(CLUSTER, "num_samplers=2", "tensor_parallel_size=2"), SHAPE, machines)
    assert [node.on_gpus for node in plan.nodes] == [
        [["learner"], ["sampler 0"], ["sampler 0"]],
        [["sampler 1"], ["sampler 1"], []],
    ]
    with pytest.raises(
        ResourcesError, match=r"sampler 0 needs 1 CPU and 4 GPU on one machine.*machine 1: \d+ CPU, 0 GPU, 1 GPU"
    ):
        make_plan(config_of(CLUSTER, "num_samplers=1", "tensor_parallel_size=4"), SHAPE, machines)


def test_a_model_whose_heads_cannot_be_split_is_refused_with_what_would() -> None:
    machines = parse_machines(["cpus=32,gpus=9,gpu=H100"])
    with pytest.raises(
        ModelError, match=r"=8 does not split .* 12 attention heads and 2 heads .*: possible are 1, 2, 4, 6, 12"
    ):
        make_plan(config_of(CLUSTER, "num_samplers=1", "tensor_parallel_size=8"), SHAPE, machines)


def test_samplers_beyond_the_least_number_need_no_place() -> None:
    machines = parse_machines(["cpus=32,gpus=3,gpu=H100"])
    plan = make_plan(config_of(CLUSTER, "num_samplers=8", "min_samplers=2", "max_samplers=8"), SHAPE, machines)
    (node,) = plan.nodes
    assert node.on_gpus == [["learner"], ["sampler 0"], ["sampler 1"]]
    with pytest.raises(ResourcesError, match="3 samplers x 1 "):
        make_plan(config_of(CLUSTER, "num_samplers=8", "min_samplers=3", "max_samplers=8"), SHAPE, machines)


def test_a_plan_says_how_much_of_what_may_grow_has_room_and_never_takes_that_from_what_starts() -> None:
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


def test_parts_that_fit_in_sum_but_on_no_machine_are_refused_with_what_is_left() -> None:
    machines = parse_machines(["cpus=2,count=4"])
    with pytest.raises(ResourcesError, match=r"learner needs 4 CPU and 0 GPU on one machine.*machine 1: 2 CPU"):
        make_plan(config_of(CONFIGS / "demo.yaml", "learner.cpus=4"), SHAPE, machines)


def test_a_gpu_is_known_in_either_case_and_may_have_other_memory() -> None:
    (machine,) = parse_machines(["cpus=8,gpus=1,gpu=h100,gpu_gib=94"])
    assert machine.gpu is not None
    assert (machine.gpu.gib, machine.gpu.tflops) == (94, GPUS["H100"].tflops)
    assert parse_machines(["cpus=8,gpu=a100-80g"])[0].gpu == GPUS["A100-80G"]


def test_samplers_that_bring_nothing_are_named() -> None:
    config = config_of(CLUSTER, "num_samplers=31")
    plan = make_plan(config, SHAPE, parse_machines(["cpus=96,gpus=8,gpu=H100,count=4"]))
    assert any("samplers would do" in line for line in plan.advice)


def test_more_ranks_and_more_samplers_shorten_their_own_part() -> None:
    gpu, config = GPUS["H100"], config_of(CLUSTER)
    memory = gpu.gib
    assert memory is not None

    def of(*settings: str) -> Pace:
        one = config_of(CLUSTER, *settings)
        found = pace(one, SHAPE, gpu, sampler_memory(one, SHAPE, memory), grading_cpus=64)
        assert found is not None
        return found

    assert of("learner.num_ranks=2").learning == pytest.approx(of().learning / 2)
    assert of("num_samplers=4").sampling > of().sampling
    assert of("num_graders=16").grading == pytest.approx(2 * of().grading)
    assert of("max_staleness=0").step > of().step == max(of().sampling, of().grading, of().learning)
    assert pace(config, SHAPE, Gpu(name="?", gib=80), sampler_memory(config, SHAPE, 80), grading_cpus=1) is None


def test_machines_are_read_from_what_ray_says() -> None:
    nodes = [
        {"Alive": True, "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 8.0, "GPU": 2.0, "accelerator_type:H100": 1}},
        {"Alive": True, "NodeManagerAddress": "10.0.0.2", "Resources": {"CPU": 4.0}},
        {"Alive": False, "NodeManagerAddress": "10.0.0.3", "Resources": {"CPU": 4.0}},
        {"Alive": True, "NodeManagerAddress": "10.0.0.4", "Resources": {"CPU": 4.0, "GPU": 1.0, "accelerator_type:Z9": 1}},
    ]  # fmt: skip
    assert machines_of(nodes) == [
        Machine(name="10.0.0.1", cpus=8, num_gpus=2, gpu=GPUS["H100"]),
        Machine(name="10.0.0.2", cpus=4),
        Machine(name="10.0.0.4", cpus=4, num_gpus=1, gpu=Gpu(name="Z9", gib=None)),
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
    said = capsys.readouterr().out
    assert "sampler 7" in said and "KV cache" in said and "A step takes about" in said
    assert main([*settings, "--machine", "cpus=96,gpus=2,gpu=H100", "num_samplers=2"]) == 1
    assert "needs 3 GPU" in capsys.readouterr().err


def test_without_a_cluster_this_machine_is_planned_for_and_ray_does_not_start(
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
    assert this_machine().cpus == num_cores()

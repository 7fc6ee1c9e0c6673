import os
import socket
import tempfile
from contextlib import nullcontext
from dataclasses import fields
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError

from cluster.errors import ConfigError, ModelError
from rollout.engine_errors import processes_log_to
from rollout.environment import (
    cache_variables,
    check_build,
    compiler_variables,
    engine_arguments,
    environment_variables,
    folder_variables,
    socket_variables,
)
from rollout.model import check_model
from rollout.settings import LORA_RANKS, RolloutSettings, max_lora_rank
from tests.rollout.conftest import TinyModel


def test_the_defaults_are_those_of_the_training_analyses() -> None:
    settings = RolloutSettings()
    assert (settings.group_size, settings.temperature) == (6, 0.9)
    assert (settings.max_prompt_tokens, settings.max_completion_tokens) == (704, 512)


def test_a_group_of_one_is_refused_with_the_reason() -> None:
    with pytest.raises(ValidationError, match="has no advantage"):
        RolloutSettings(group_size=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0.0},
        {"num_samplers": 0},
        {"num_samplers": 2, "max_samplers": 1},
        {"num_samplers": 2, "min_samplers": 3},
        {"tensor_parallel_size": 0},
        {"tensor_parallel_size": 2, "gpus_per_sampler": 0.5},
        {"top_p": 0.9},
        {"weight_sync_mode": "hot"},
        {"weight_sync_tolerance": 0.0},
        {"stop": ("(* END *)", "")},
    ],
)
def test_values_out_of_bounds_and_unknown_keys_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RolloutSettings(**wrong)


def test_every_field_has_a_description() -> None:
    assert all(field.description for field in RolloutSettings.model_fields.values())


@pytest.mark.parametrize(
    ("rank", "served"), [(1, 1), (2, 8), (8, 8), (12, 16), (24, 32), (48, 64), (300, 320), (512, 512)]
)
def test_a_rank_is_served_under_the_next_rank_that_vllm_knows(rank: int, served: int) -> None:
    arguments = engine_arguments(RolloutSettings(weight_sync_mode="versions"), "org/model", rank, (), max_staleness=0)
    assert arguments["max_lora_rank"] == served


def test_a_rank_above_the_largest_of_vllm_is_refused() -> None:
    with pytest.raises(ConfigError, match="513 cannot be served: vLLM serves none above 512"):
        max_lora_rank(513)


def test_the_lora_ranks_are_those_of_the_installed_vllm() -> None:
    lora = pytest.importorskip("vllm.config.lora")
    from typing import get_args

    assert get_args(lora.MaxLoRARanks) == LORA_RANKS


def test_a_model_folder_without_weights_or_with_a_broken_configuration_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"the folder holds no weights[^\n]*$"):
        check_model(str(tmp_path), 10)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match=r"cannot be loaded: [^\n]*use a Hugging Face id[^\n]*$"):
        check_model(str(tmp_path), 10)


def test_a_model_with_a_shorter_context_is_refused_with_both_numbers(
    tiny_model: TinyModel,
) -> None:
    check_model(tiny_model.path, 512)
    with pytest.raises(ModelError, match=r"has a context of 512 tokens.*max_completion_tokens = 513"):
        check_model(tiny_model.path, 513)


def test_cpu_samplers_are_float32_unpinned_and_bounded_in_memory(tmp_path: Path) -> None:
    settings = RolloutSettings(cpus_per_sampler=2.5, kv_cache_gib=0.5)
    arguments = engine_arguments(settings, "org/model", 16, (), max_staleness=0)
    assert arguments["dtype"] == "float32"
    assert arguments["kv_cache_memory_bytes"] == 512 * 1024**2
    variables = environment_variables(settings, "org/model")
    assert variables["OMP_NUM_THREADS"] == "2"
    assert variables["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert (variables["CUDA_VISIBLE_DEVICES"], variables["VLLM_TARGET_DEVICE"]) == ("", "cpu")
    assert "HF_HUB_OFFLINE" not in variables
    assert environment_variables(settings, str(tmp_path))["HF_HUB_OFFLINE"] == "1"


def test_sockets_are_in_the_folder_of_the_engine_unless_its_path_is_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_longest_path = Path("/" + 69 * "a")
    assert socket_variables(with_longest_path) == {"VLLM_RPC_BASE_PATH": str(with_longest_path)}
    with socket.socket(socket.AF_UNIX) as bound, pytest.raises(FileNotFoundError):  # not: AF_UNIX path too long
        bound.bind(str(with_longest_path / str(uuid4())))
    too_long = Path("/" + 70 * "a")
    monkeypatch.setattr("tempfile.tempdir", "/somewhere")
    assert socket_variables(too_long) == {"VLLM_RPC_BASE_PATH": "/somewhere"}
    monkeypatch.setattr("tempfile.tempdir", "/" + 100 * "b")
    assert socket_variables(too_long) == {"VLLM_RPC_BASE_PATH": "/tmp"}


def test_gpu_samplers_are_bfloat16_and_share_the_gpu() -> None:
    settings = RolloutSettings(gpus_per_sampler=0.5, gpu_memory_utilization=0.4)
    arguments = engine_arguments(settings, "org/model", 16, (), max_staleness=0)
    assert (arguments["dtype"], arguments["gpu_memory_utilization"]) == ("bfloat16", 0.4)
    assert "kv_cache_memory_bytes" not in arguments
    planned = settings.model_copy(update={"kv_cache_memory_bytes": 3 * 1024**3})
    arguments = engine_arguments(planned, "org/model", 16, (), max_staleness=0)
    assert (arguments["kv_cache_memory_bytes"], arguments["gpu_memory_utilization"]) == (3 * 1024**3, 0.36)
    cpu_only = {"OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "VLLM_TARGET_DEVICE"}
    assert not cpu_only & environment_variables(settings, "org/model").keys()


@pytest.mark.parametrize(
    ("vllm_version", "gpus", "refusal"),
    [
        (None, 0.0, None),  # the package vllm-cpu
        ("0.32.0+cpu", 0.0, None),
        ("0.32.0", 0.5, None),
        ("0.32.0", 0.0, r"gpus_per_sampler=0 samples on the CPU.*CUDA build.*CARAVAN_DEVICE=cpu"),
        (None, 0.5, r"gpus_per_sampler=0.5 samples on a GPU.*CPU build.*CARAVAN_DEVICE=gpu"),
    ],
)
def test_a_build_of_vllm_for_the_other_device_is_refused(
    vllm_version: str | None, gpus: float, refusal: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(_: str) -> str:
        if vllm_version is None:
            raise PackageNotFoundError
        return vllm_version

    monkeypatch.setattr("rollout.environment.version", version)
    with nullcontext() if refusal is None else pytest.raises(ModelError, match=refusal):
        check_build(RolloutSettings(gpus_per_sampler=gpus))


@pytest.mark.parametrize(("max_staleness", "num_slots"), [(0, 2), (1, 3), (4, 6), (100, 9)])
def test_an_engine_has_a_slot_for_each_live_policy_one_to_verify_and_an_empty_slot_on_the_cpu(
    max_staleness: int, num_slots: int
) -> None:
    for gpus, num_empty in ((0.0, 1), (0.5, 0)):
        settings = RolloutSettings(weight_sync_mode="versions", gpus_per_sampler=gpus)
        arguments = engine_arguments(settings, "org/model", 16, (), max_staleness)
        assert arguments["max_loras"] == num_slots + num_empty
        assert arguments["max_cpu_loras"] == max_staleness + 3


def test_an_in_flight_engine_holds_one_adapter_and_a_merged_one_none() -> None:
    for gpus, num_slots in ((0.0, 2), (1.0, 1)):
        settings = RolloutSettings(weight_sync_mode="in_flight", gpus_per_sampler=gpus)
        in_flight = engine_arguments(settings, "org/model", 16, (), max_staleness=4)
        assert (in_flight["max_loras"], in_flight["max_cpu_loras"]) == (num_slots, 2)
    merged = engine_arguments(RolloutSettings(weight_sync_mode="merged"), "org/model", 16, (), max_staleness=4)
    assert not [name for name in merged if "lora" in name]


@pytest.mark.parametrize(
    ("changes", "mode"),
    [
        ({}, "merged"),
        ({"engine": {"quantization": "fp8"}}, "versions"),
        ({"gpus_per_sampler": 0.5}, "versions"),
        ({"weight_sync_mode": "in_flight"}, "in_flight"),
    ],
)
def test_the_default_mode_merges_adapters_on_the_cpu(changes: Any, mode: str) -> None:
    assert RolloutSettings(**changes).chosen_sync_mode == mode


def test_the_setting_limits_the_tokens_of_a_pass() -> None:
    on_gpu, more = {"gpus_per_sampler": 1.0}, {"max_num_batched_tokens": 8192}

    def tokens(**changes: Any) -> int | None:
        found: int | None = engine_arguments(RolloutSettings(**changes), "m", 16, (), 0).get("max_num_batched_tokens")
        return found

    assert (tokens(**on_gpu), tokens(**on_gpu, **more)) == (None, 8192)
    # Prompts are prefilled whole on the CPU.
    assert (tokens(), tokens(**more), tokens(max_num_batched_tokens=512)) == (4096, 8192, 704 + 512)
    with pytest.raises(ValidationError, match=r"max_num_batched_tokens=63 .*max_concurrent_requests=64"):
        RolloutSettings(max_num_batched_tokens=63)


def test_the_number_of_samplers_is_fixed_without_bounds_and_starts_within_them() -> None:
    assert (RolloutSettings(num_samplers=3).minimum, RolloutSettings(num_samplers=3).maximum) == (3, 3)
    between = RolloutSettings(num_samplers=3, min_samplers=1, max_samplers=8)
    assert (between.minimum, between.maximum) == (1, 8)
    with pytest.raises(ValidationError, match=r"num_samplers=3 .* rollout.min_samplers=4 .* rollout.max_samplers=8"):
        RolloutSettings(num_samplers=3, min_samplers=4, max_samplers=8)


@pytest.mark.parametrize("mode", ["versions", "in_flight", "merged"])
def test_the_installed_vllm_has_every_argument(mode: Any) -> None:
    vllm = pytest.importorskip("vllm.engine.arg_utils")
    argument_names = {field.name for field in fields(vllm.AsyncEngineArgs)}
    filled_in = {"kv_cache_memory_bytes": 1024**3, "max_num_batched_tokens": 8192, "gpu_memory_utilization": 0.4}
    for gpus, more in ((0.0, {}), (1.0, {"tensor_parallel_size": 2}), (0.5, filled_in)):
        settings = RolloutSettings(weight_sync_mode=mode, gpus_per_sampler=gpus, **more)
        assert engine_arguments(settings, "org/model", 16, ("q_proj",), max_staleness=1).keys() <= argument_names


def test_a_split_engine_needs_whole_gpus_and_a_process_for_each() -> None:
    settings = RolloutSettings(tensor_parallel_size=4, gpus_per_sampler=1, cpus_per_sampler=2)
    assert settings.bundle == {"CPU": 2.0, "GPU": 4.0}
    arguments = engine_arguments(settings, "org/model", 16, (), max_staleness=0)
    assert (arguments["tensor_parallel_size"], arguments["distributed_executor_backend"]) == (4, "mp")
    assert "distributed_executor_backend" not in engine_arguments(
        RolloutSettings(gpus_per_sampler=1), "org/model", 16, (), max_staleness=0
    )
    with pytest.raises(ValidationError, match=r"gpus_per_sampler=0.25 is a fraction of one: remove it, or set it to 1"):
        RolloutSettings(tensor_parallel_size=4, gpus_per_sampler=0.25)


def test_ranks_of_an_engine_on_the_cpu_share_its_cores_and_its_cache() -> None:
    settings = RolloutSettings(tensor_parallel_size=2, cpus_per_sampler=6, kv_cache_gib=1)
    assert settings.bundle == {"CPU": 6.0}
    arguments = engine_arguments(settings, "org/model", 16, (), max_staleness=0)
    assert (arguments["kv_cache_memory_bytes"], arguments["distributed_executor_backend"]) == (512 * 1024**2, "mp")
    assert environment_variables(settings, "org/model")["OMP_NUM_THREADS"] == "3"


def test_a_model_whose_heads_cannot_be_split_is_refused_with_the_possible_numbers(tiny_model: TinyModel) -> None:
    check_model(tiny_model.path, 512, 2)
    check_model(tiny_model.path, 512, 4)  # two key-value heads: each is on two GPUs
    with pytest.raises(
        ModelError, match=r"tensor_parallel_size=3 does not split .* 4 attention heads .*: possible are 1, 2, 4$"
    ):
        check_model(tiny_model.path, 512, 3)


def test_only_the_targets_of_the_adapter_have_lora_in_the_engine() -> None:
    targets = ("v_proj", "model.layers.0.self_attn.q_proj")
    settings = RolloutSettings(weight_sync_mode="versions")
    arguments = engine_arguments(settings, "org/model", 16, targets, max_staleness=0)
    assert arguments["lora_target_modules"] == ["q_proj", "v_proj"]
    assert "lora_target_modules" not in engine_arguments(settings, "org/model", 16, (), max_staleness=0)
    merged = engine_arguments(RolloutSettings(weight_sync_mode="merged"), "org/model", 16, targets, max_staleness=0)
    assert not any("lora" in name for name in merged)


def test_compiled_code_goes_to_an_executable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eager, compiled = RolloutSettings(enforce_eager=True), RolloutSettings(enforce_eager=False)
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert compiler_variables(eager) == {}

    noexec = {Path(tempfile.gettempdir())}
    monkeypatch.setattr("rollout.environment._allows_execution", lambda folder: folder not in noexec)
    cache = tmp_path / "cache" / "caravan" / "torchinductor"
    assert compiler_variables(eager) == compiler_variables(compiled) == {"TORCHINDUCTOR_CACHE_DIR": str(cache)}
    noexec.add(cache)
    assert compiler_variables(eager) == {"TORCHDYNAMO_DISABLE": "1"}
    assert compiler_variables(compiled) == {}
    noexec.add(Path("/chosen"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/chosen")
    assert compiler_variables(eager) == {"TORCHDYNAMO_DISABLE": "1"}
    noexec.remove(Path("/chosen"))
    assert compiler_variables(eager) == {}


def test_compiled_engines_share_a_cache_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    eager, compiled = RolloutSettings(enforce_eager=True), RolloutSettings(enforce_eager=False)
    noexec: set[Path] = set()
    monkeypatch.setattr("rollout.environment._allows_execution", lambda folder: folder not in noexec)
    monkeypatch.setattr("tempfile.tempdir", "/scratch")
    monkeypatch.delenv("VLLM_CACHE_ROOT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_variables(eager) == cache_variables(compiled) == {}
    noexec.add(tmp_path / "vllm")
    fallback = {"VLLM_CACHE_ROOT": f"/scratch/caravan-vllm-{os.getuid()}"}
    assert (cache_variables(eager), cache_variables(compiled)) == ({}, fallback)
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/volume")
    assert cache_variables(compiled) == {}
    noexec.add(Path("/volume"))
    assert cache_variables(compiled) == fallback


def test_engines_of_a_machine_share_compiled_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    envs = pytest.importorskip("vllm.envs")
    settings = RolloutSettings(gpus_per_sampler=1.0)
    keys = []
    for gpu in ("0", "1"):
        sockets = tmp_path / gpu
        sockets.mkdir()
        for name, value in {**folder_variables(settings, sockets), "CUDA_VISIBLE_DEVICES": gpu}.items():
            monkeypatch.setenv(name, value)
        with processes_log_to(sockets / "engine.causes", "ERROR"):
            keys.append(envs.compile_factors())
    assert keys[0] == keys[1]

"""Options of vLLM in ``rollout.engine``: refusals at the load of the configuration, and forms of writing."""

from pathlib import Path

import pytest

from cluster.config.config import dump_yaml
from cluster.config.load import load_config
from cluster.errors import ConfigError
from rollout.environment import engine_arguments
from rollout.settings import RolloutSettings
from rollout.weight_sync import max_base_gap


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("kv_cache_dtyp=fp8", "rollout.engine.kv_cache_dtyp: vLLM .* has no such option; did you mean kv_cache_dtype"),
        ("nonsense=1", "its options are the fields of AsyncEngineArgs"),
        ("swap_space=4", "swap_space: vLLM .* has no such option: .*kv_offloading_size"),
        ("max_num_seqs=4", "max_num_seqs cannot be set: it follows from rollout.max_concurrent_requests"),
        ("max_model_len=4", "follows from rollout.max_prompt_tokens and rollout.max_completion_tokens"),
        ("max_loras=4", "follows from learner.lora, rollout.weight_sync_mode"),
        ("logprobs_mode=raw_logprobs", "follows from Caravan itself"),
        ("pipeline_parallel_size=2", "follows from rollout.tensor_parallel_size and rollout.num_samplers"),
        ("data_parallel_size_local=2", "a sampler is one engine"),
        ("max_num_batched_tokens=8", "rollout.max_num_batched_tokens=8 must be at least"),
    ],
)
def test_unknown_and_owned_options_are_refused_in_one_line(options: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        load_config(None, [f"rollout.engine.{options}"], environment={})
    assert "\n" not in str(refused.value)


def test_options_are_set_in_a_file_and_one_by_one_and_are_kept_in_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("rollout:\n  engine: {kv_cache_dtype: auto, cpu_offload_gb: 2}\n")
    words = ["rollout.engine.kv_cache_dtype=fp8", "engine.speculative_config.method=ngram"]
    config = load_config(file, [*words, "engine.speculative_config.num_speculative_tokens=3"], environment={})
    wanted = {
        "kv_cache_dtype": "fp8",
        "cpu_offload_gb": 2,
        "speculative_config": {"method": "ngram", "num_speculative_tokens": 3},
    }
    assert config.rollout.engine == wanted
    file.write_text(dump_yaml(config))
    kept = load_config(file, environment={}).rollout
    assert kept.engine == wanted
    assert engine_arguments(kept, "org/model", 8, (), 1).items() >= wanted.items()


def test_the_tokens_of_a_pass_have_one_setting() -> None:
    settings = RolloutSettings.model_validate({"engine": {"max_num_batched_tokens": 4096, "stream_interval": 2}})
    assert (settings.max_num_batched_tokens, settings.engine) == (4096, {"stream_interval": 2})
    with pytest.raises(ValueError, match="contradicts"):
        RolloutSettings.model_validate({"engine": {"max_num_batched_tokens": 4096}, "max_num_batched_tokens": 2048})


def test_a_quantized_engine_may_differ_more_from_the_learner() -> None:
    plain = RolloutSettings(engine={"kv_cache_dtype": "auto", "stream_interval": 2})
    assert max_base_gap(plain) == 1e-3
    assert max_base_gap(plain, learner_is_quantized=True) == 0.5
    for options in ({"quantization": "fp8"}, {"kv_cache_dtype": "fp8_e4m3"}):
        assert max_base_gap(RolloutSettings(engine=options)) == 0.5
        assert max_base_gap(RolloutSettings(engine=options, weight_sync_tolerance=0.1)) == 0.1

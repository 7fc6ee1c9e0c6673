"""The estimate of the learner's activations, compared with the tensors that its layers keep; see benchmarks.memory."""

import pytest

from benchmarks.memory import compare, config_of, measure


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("7B", ()),
        ("1.5B", ("lora.dropout=0", "lora.r=128", "max_completion_tokens=1024", "max_prompt_tokens=320")),
        ("0.5B", ("lora.target_modules=q_proj,v_proj",)),
        ("1.5B", ("gradient_checkpointing=true",)),
    ],
)
def test_plan_estimates_the_activations_of_a_pass_within_a_tenth(name: str, settings: tuple[str, ...]) -> None:
    row = compare(name, settings)
    assert 0.95 < row["ratio"] < 1.1, row


def test_turning_off_casts_saves_the_copies_of_projection_inputs() -> None:
    config = config_of("lora.dropout=0")
    without, with_casts = (measure("0.5B", config, casts=casts).saved_per_layer for casts in (False, True))
    # Casts copy inputs: two more copies for q, k, v; one for gate and up; one for o, whose input attention saves anyway.
    assert with_casts - without == pytest.approx(4 * 896 * 2, rel=0.01)


def test_the_tiles_of_the_output_head_are_those_of_the_installed_trl() -> None:
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    from cluster.placement.plan.learner_memory import HEAD_TILE

    assert HEAD_TILE == (TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE)

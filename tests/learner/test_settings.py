import pytest
from pydantic import ValidationError

from learner.lora_settings import LoraSettings
from learner.settings import LearnerSettings


def test_the_defaults_of_the_adapter_are_those_of_the_first_analysis() -> None:
    lora = LearnerSettings().lora
    assert (lora.r, lora.alpha, lora.dropout, lora.bias) == (32, 64, 0.05, "none")
    assert lora.target_modules == ("all-linear",)  # the seven of the analysis for Qwen2: see training/test_targets.py
    assert LearnerSettings().learning_rate == 5e-6


@pytest.mark.parametrize("rank", [0, 513])
def test_a_rank_that_vllm_does_not_serve_is_refused(rank: int) -> None:
    with pytest.raises(ValidationError, match="equal to"):
        LoraSettings(r=rank)


def test_an_adapter_on_the_head_is_refused() -> None:
    with pytest.raises(ValidationError, match="lm_head"):
        LoraSettings(target_modules=("q_proj", "lm_head"))


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="learning_rat"):
        LearnerSettings.model_validate({"learning_rat": 1e-5})

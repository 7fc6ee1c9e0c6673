"""A tiny random model on disk, and a factory of learners that closes them at the end of the test."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from learner.training.quiet import silence_libraries
from tests.learner.factories import VOCABULARY, plan, settings

silence_libraries()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.2,  # so that logprobs differ from token to token
        eos_token_id=1,
        pad_token_id=2,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(VOCABULARY)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1", pad_token="w2").save_pretrained(folder)
    return folder


@pytest.fixture
def make_learner(model_folder: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``make_learner(max_steps=..., checkpoints="name", planned={...}, **settings)`` -> a started LearnerWorker."""
    from learner.worker import LearnerWorker

    learners = []

    def make(
        *, max_steps: int = 20, checkpoints: str = "checkpoints", planned: Any = None, **changes: Any
    ) -> LearnerWorker:
        learner_plan = plan(model_folder, tmp_path / checkpoints, max_steps=max_steps, **(planned or {}))
        learner = LearnerWorker(settings(**changes), learner_plan)
        learners.append(learner)
        learner.start()
        return learner

    yield make
    for learner in learners:
        learner.close()

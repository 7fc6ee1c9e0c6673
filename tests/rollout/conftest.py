"""A tiny Qwen2 with random weights, adapters for it, and requests for pools."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from cluster.placement.local_ray import start_ray
from cluster.types import Completion, GroupRequest, PolicyVersion, ProbePrompt, Prompt, Sampling
from rollout.examples import BUILT_IN_EXAMPLES

T = TypeVar("T")
LORA_RANK = 12  # not a rank of vLLM
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class RunInLoop(Protocol):
    """Runs a coroutine in the event loop of the module."""

    def __call__(self, coroutine: Coroutine[Any, Any, T], /) -> T: ...


class MakeRequest(Protocol):
    """Makes a request for a group of a few-shot example."""

    def __call__(
        self,
        group_id: str,
        *,
        size: int = 4,
        tokens: int = 16,
        seed: int = 0,
        temperature: float = 0.8,
        **sampling: Any,
    ) -> GroupRequest: ...


@dataclass(frozen=True)
class TinyModel:
    path: str
    tokenizer: Any

    def prompt(self, text: str) -> Prompt:
        return Prompt(problem_id="p", text=text, token_ids=tuple(self.tokenizer.encode(text)))

    def logprobs(self, completion: Completion, temperature: float, adapter_folder: Path | None = None) -> list[float]:
        """Log-probabilities of the completion's tokens according to transformers (and peft)."""
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self.path, dtype=torch.float32)
        if adapter_folder is not None:
            model = PeftModel.from_pretrained(model, adapter_folder)
        ids = torch.tensor([[*completion.prompt_ids, *completion.token_ids]])
        with torch.no_grad():
            scores = (model(ids).logits[0, len(completion.prompt_ids) - 1 : -1] / temperature).log_softmax(-1)
        logprobs: list[float] = scores.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0].tolist()
        return logprobs


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("tiny-model")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    texts = [f"{example.statement}\n{example.solution}\n" for example in BUILT_IN_EXAMPLES]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=384, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.12,  # peaked enough that a wrong temperature or adapter shows, flat enough to be random
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return TinyModel(path=str(folder), tokenizer=tokenizer)


@pytest.fixture(scope="session")
def adapter_folders(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """PEFT folders of policies 1 to 4, each with its own weights."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folders = {}
    for version in range(1, 5):
        torch.manual_seed(version)
        lora = LoraConfig(
            r=LORA_RANK,
            lora_alpha=7,  # a scale of 2.02
            use_rslora=True,
            target_modules=PROJECTIONS,
            init_lora_weights=False,
            task_type="CAUSAL_LM",
        )
        folders[version] = tmp_path_factory.mktemp(f"policy-{version}")
        get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model.path), lora).save_pretrained(folders[version])
    return folders


@pytest.fixture(scope="session")
def policies(tiny_model: TinyModel, adapter_folders: dict[int, Path]) -> dict[int, PolicyVersion]:
    """The adapters as a learner publishes them, with the modules and the probe prompt for their verification."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    policies = {}
    token_ids = [(7 * position) % 300 for position in range(1, 65)]
    for version, folder in adapter_folders.items():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model.path), folder)
        with torch.no_grad():
            scores = model(torch.tensor([token_ids])).logits[0, :-1].log_softmax(-1)
        policies[version] = PolicyVersion(
            number=version,
            adapter={file.name: file.read_bytes() for file in folder.iterdir() if file.name.startswith("adapter_")},
            modules=tuple(
                f"model.layers.{layer}.{'mlp' if name in PROJECTIONS[4:] else 'self_attn'}.{name}"
                for layer in range(2)
                for name in PROJECTIONS
            ),
            probes=(
                ProbePrompt(
                    token_ids=tuple(token_ids),
                    logprobs=tuple(scores.gather(-1, torch.tensor(token_ids[1:])[:, None])[:, 0].tolist()),
                ),
            ),
        )
    return policies


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    import ray

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray spells it so; else an engine may take minutes to start while other processes are busy
    folder = tempfile.mkdtemp(prefix="caravan-ray-", dir="/tmp")  # a short path: Ray puts sockets into it
    start_ray(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def run() -> Iterator[RunInLoop]:
    """Runs all coroutines of a module in one event loop, as its pool needs."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def request_for(tiny_model: TinyModel) -> MakeRequest:
    def build(
        group_id: str, *, size: int = 4, tokens: int = 16, seed: int = 0, temperature: float = 0.8, **sampling: Any
    ) -> GroupRequest:
        example = BUILT_IN_EXAMPLES[0]
        return GroupRequest(
            group_id=group_id,
            prompt=tiny_model.prompt(f"{example.prompt}\n"),
            group_size=size,
            sampling=Sampling(temperature=temperature, max_completion_tokens=tokens, **sampling),
            seed=seed,
        )

    return build

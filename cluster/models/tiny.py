"""The built-in ``tiny`` model: a small Qwen2 with its own tokenizer, warm-started on the built-in problems.

It ships in ``assets/tiny``; ``python -m cluster.models.tiny`` trains it again. It was trained on the reference solutions of the
training problems only, and only for a short time, so that GRPO has much to improve.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from cluster.config.model_path import FOLDER
from cluster.models.sft_pairs import answer, pairs_of
from cluster.models.tiny_card import card, measure
from cluster.problems.builtin import builtin_problems
from cluster.problems.dataset import split
from cluster.types import Problem, Prompt
from learner.sft.examples import SftSchedule
from learner.sft.warm_start import Shape, warm_start
from rollout.prompt import PromptRenderer
from rollout.prompt_settings import PromptSettings
from rollout.prompt_template import CONTINUATION, INSTRUCTION, PromptTemplate

NUM_HELD_OUT = 200
SPLIT_SEED = 0
VOCAB_SIZE = 1024
# Qwen2's pre-tokenizer pattern, in which each digit is a word. AutoTokenizer of transformers uses it for every Qwen2 model and
# ignores the pattern in tokenizer.json.
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
EOS = "<|endoftext|>"
PAD = "<|pad|>"
COMPLETIONS_PER_PROBLEM = 4  # for the model card
MAX_TOKENS = 1024  # prompt and completion together
SCHEDULE = SftSchedule(num_steps=1000, batch_size=16, learning_rate=3e-3, label_smoothing=0.035, prompt_loss_weight=0.3)


def training_split() -> tuple[list[Problem], list[Problem]]:
    """The training and the held-out problems of the model."""
    return split(builtin_problems(), NUM_HELD_OUT, SPLIT_SEED)


def make(
    folder: Path, schedule: SftSchedule = SCHEDULE, on_step: Callable[[int, float], None] = lambda _step, _loss: None
) -> None:
    """Train tokenizer and model and save them in a folder, with weights in bfloat16; takes minutes on one core."""
    import torch

    training, _ = training_split()
    tokenizer = train_tokenizer([text_of(problem) for problem in training])
    shape = Shape(
        vocab_size=VOCAB_SIZE,
        hidden_size=192,
        num_layers=4,
        num_heads=6,
        num_kv_heads=2,
        intermediate_size=512,
        max_position_embeddings=MAX_TOKENS,
        eos_id=tokenizer.eos_token_id,
        pad_id=tokenizer.pad_token_id,
    )
    model = warm_start(
        pairs_of(training, prompts_of(training, tokenizer), tokenizer), tokenizer, shape, schedule, on_step
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def text_of(problem: Problem) -> str:
    """The prompt and the answer of a problem, from which the tokenizer is made."""
    text = PromptTemplate(CONTINUATION).render(problem, system=INSTRUCTION, examples=())
    return text + answer(problem, Prompt(problem_id=problem.id, text=text, token_ids=()))


def prompts_of(problems: Sequence[Problem], tokenizer: Any) -> Mapping[str, Prompt]:
    """The prompts of problems for the tiny model, by problem id."""
    renderer = PromptRenderer(tokenizer, PromptSettings(), max_prompt_tokens=MAX_TOKENS, today=date.today())
    return renderer.render_all(problems).prompts


def train_tokenizer(texts: Sequence[str]) -> Any:
    """Train a byte-level BPE tokenizer of ``VOCAB_SIZE`` tokens with one token per digit."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=MAX_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def main() -> None:
    """Make the tiny model again: train it, measure it on the held-out problems, and write its card."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    parser = argparse.ArgumentParser(prog="python -m cluster.models.tiny", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, help="default: %(default)s")
    folder = parser.parse_args().out
    training, held_out = training_split()
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    ) as progress:
        steps = progress.add_task("warm start, steps", total=SCHEDULE.num_steps)
        completions = progress.add_task("held-out completions", total=len(held_out) * COMPLETIONS_PER_PROBLEM)
        make(folder, on_step=lambda step, _loss: progress.update(steps, completed=step))
        grades = measure(
            folder,
            held_out,
            completions_per_problem=COMPLETIONS_PER_PROBLEM,
            on_batch=lambda done, _total: progress.update(completions, completed=done),
        )
    text = card(SCHEDULE, grades, num_training=len(training), split_seed=SPLIT_SEED)
    (folder / "README.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

"""The built-in tiny model: its training, and the shipped model compared with its card."""

from pathlib import Path
from typing import Any

import pytest

from cluster.config.model_path import tiny_model_path
from cluster.errors import ModelError
from cluster.models import tiny
from cluster.models.sft_pairs import answer, pairs_of
from cluster.models.tiny_card import measure
from cluster.types import Problem, Prompt, Verdict

TRAINING, HELD_OUT = tiny.training_split()
PROBLEM = Problem(
    id="p", statement="(** Twice n.\n * >>> twice 21\n * 42\n *)", signature="let twice (n : int) : int =",
    tests="let () =\n  assert (twice 1 = 2);\n;;", solution="let twice (n : int) : int =\n  n * 2",
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny.train_tokenizer([tiny.text_of(problem) for problem in TRAINING[:300]])


def test_every_digit_is_a_token_of_its_own(tokenizer: Any) -> None:
    pieces = [tokenizer.decode([token]) for token in tokenizer.encode("x + 1024 * 77", add_special_tokens=False)]
    assert [piece.strip() for piece in pieces if any(char.isdigit() for char in piece)] == list("102477")


def test_auto_tokenizer_reads_the_saved_tokenizer_as_it_was_trained(tokenizer: Any, tmp_path: Path) -> None:
    """AutoTokenizer uses the word pattern of Qwen2: a tokenizer trained with another pattern would give other tokens."""
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert all(loaded.encode(problem.prompt) == tokenizer.encode(problem.prompt) for problem in TRAINING[:300])


def test_any_text_is_restored_from_its_tokens(tokenizer: Any) -> None:
    text = 'let s = "naïve — ∀x" ^ "\\n"\n\n  (* END *)'
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_a_problem_without_a_solution_is_refused() -> None:
    unsolved = Problem(id="u", statement="", signature="let f x =", tests="")
    with pytest.raises(ModelError, match="'u' has no reference solution"):
        answer(unsolved, Prompt(problem_id="u", text="", token_ids=()))


def test_pairs_are_the_rendered_prompt_and_the_completion_with_its_end_of_sequence(tokenizer: Any) -> None:
    ((prompt, completion),) = pairs_of([PROBLEM], tiny.prompts_of([PROBLEM], tokenizer), tokenizer)
    assert tokenizer.decode(prompt).endswith("let twice (n : int) : int =\n")
    assert tokenizer.decode(completion) == "  n * 2\n(* END *)<|endoftext|>"


def test_no_held_out_problem_is_trained_on() -> None:
    assert len(HELD_OUT) == tiny.NUM_HELD_OUT
    assert not {problem.id for problem in TRAINING} & {problem.id for problem in HELD_OUT}
    assert not {problem.statement for problem in TRAINING} & {problem.statement for problem in HELD_OUT}
    assert not {problem.solution for problem in TRAINING} & {problem.solution for problem in HELD_OUT}


def test_the_shipped_model_is_small_and_its_card_names_the_split() -> None:
    folder = tiny_model_path()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5_000_000
    card = (folder / "README.md").read_text()
    assert f"{tiny.NUM_HELD_OUT} held-out problems" in card
    assert "python -m cluster.models.tiny" in card


def test_prompts_of_the_built_in_problems_are_short_for_the_shipped_tokenizer() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_path())
    pairs = pairs_of(TRAINING, tiny.prompts_of(TRAINING, tokenizer), tokenizer)
    lengths = sorted(len(prompt) for prompt, _ in pairs)
    assert lengths[len(lengths) // 2] < 130
    assert lengths[-1] < 320


def test_a_missing_model_is_reported_with_the_command_that_makes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("cluster.config.model_path.FOLDER", tmp_path)
    with pytest.raises(ModelError, match=r"python -m cluster\.models\.tiny"):
        tiny_model_path()


@pytest.mark.slow
def test_the_shipped_model_solves_some_held_out_problems_and_has_much_to_learn() -> None:
    groups = measure(tiny_model_path(), HELD_OUT[:60], completions_per_problem=2)
    grades = [grade for group in groups for grade in group]
    rewards = [grade.reward for grade in grades]
    assert 0.2 < sum(rewards) / len(rewards) < 0.5
    assert 0.05 < sum(grade.facts.verdict is Verdict.PASSED for grade in grades) / len(grades) < 0.4

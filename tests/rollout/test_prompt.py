import json
import shutil
import subprocess
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import PromptTooLong
from cluster.types import Problem, Prompt
from rollout.examples import BUILT_IN_EXAMPLES
from rollout.prompt import PromptRenderer
from rollout.prompt_settings import PromptSettings
from rollout.prompt_template import END_MARKER
from rollout.tokenizer import special_tokens

from .chat_templates import CHATML, tokenizer_with

SHARED_DATA = Path(__file__).parents[3] / "shared" / "data"

GCD = Problem(
    id="gcd",
    statement="(** Greatest common divisor.\n * >>> gcd 12 18\n * 6\n *)",
    signature="let rec gcd (a : int) (b : int) : int =",
    tests="let () = assert (gcd 35 21 = 7)",
)


TODAY = date(2026, 1, 2)


def render(problem: Problem, tokenizer: Any, *, num_few_shot: int = 0, max_prompt_tokens: int = 10_000) -> Prompt:
    renderer = PromptRenderer(
        tokenizer, PromptSettings(num_few_shot=num_few_shot), max_prompt_tokens=max_prompt_tokens, today=TODAY
    )
    return renderer.render(problem)


@pytest.fixture(scope="module")
def qwen() -> Any:
    folder = SHARED_DATA / "qwen2.5-tokenizer"
    if not folder.is_dir():
        pytest.skip("the Qwen2.5 tokenizer is not next to the repository (../shared/data/qwen2.5-tokenizer)")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("template", [None, CHATML])
@pytest.mark.parametrize("num_few_shot", [0, 1, 3])
def test_a_prompt_has_the_problem_and_the_examples_and_no_test(template: str, num_few_shot: int) -> None:
    prompt = render(GCD, tokenizer_with(template), num_few_shot=num_few_shot)
    assert GCD.prompt in prompt.text
    assert [example.prompt in prompt.text for example in BUILT_IN_EXAMPLES] == [n < num_few_shot for n in range(3)]
    assert "assert" not in prompt.text
    assert prompt.problem_id == "gcd"


def test_a_base_model_continues_after_the_signature() -> None:
    prompt = render(GCD, tokenizer_with(), num_few_shot=2)
    assert prompt.text.endswith(GCD.signature + "\n")
    assert prompt.text.count(END_MARKER) == 2  # after each example, as a completion should end


def test_the_question_asks_for_the_whole_definition_and_the_marker() -> None:
    prompt = render(GCD, tokenizer_with(CHATML))
    assert prompt.text.startswith("<|im_start|>system\n")
    assert prompt.text.endswith("<|im_start|>assistant\n")
    assert END_MARKER in prompt.text


def test_a_prompt_at_the_limit_is_accepted_and_a_longer_one_refused_with_both_numbers() -> None:
    length = len(render(GCD, tokenizer_with()).token_ids)
    render(GCD, tokenizer_with(), max_prompt_tokens=length)
    with pytest.raises(PromptTooLong, match=rf"'gcd' has {length} tokens.*max_prompt_tokens={length - 1}"):
        render(GCD, tokenizer_with(), max_prompt_tokens=length - 1)


def test_the_few_shot_examples_compile(tmp_path: Path) -> None:
    if shutil.which("ocamlc") is None:
        pytest.skip("ocamlc is not installed")
    source = tmp_path / "examples.ml"
    source.write_text(
        "".join(f"{example.statement}\n{example.solution}\n{END_MARKER}\n" for example in BUILT_IN_EXAMPLES)
    )
    source.write_text(
        source.read_text()
        + "let () = assert (sum_even_squares [1; 2; 3; 4] = 20)\n"
        + 'let () = assert (longest_word "a quiet river" = Some "quiet" && longest_word "" = None)\n'
        + "let () = assert (squeeze [1; 1; 2; 1] = [1; 2; 1])\n"
    )
    subprocess.run(["ocamlc", "-o", tmp_path / "examples", source], check=True, cwd=tmp_path)
    subprocess.run([tmp_path / "examples"], check=True)


def test_qwens_chat_template_is_tokenized_once_with_its_special_tokens(qwen: Any) -> None:
    prompt = render(GCD, qwen, num_few_shot=1, max_prompt_tokens=704)
    tokens = qwen.convert_ids_to_tokens(prompt.token_ids)
    assert tokens[0] == "<|im_start|>"
    assert tokens.count("<|im_start|>") == 3  # system, user, and the opened answer
    assert prompt.text.endswith("<|im_start|>assistant\n")
    assert qwen.decode(prompt.token_ids) == prompt.text


def test_special_tokens_are_listed_for_the_graders(qwen: Any) -> None:
    renderer = PromptRenderer(qwen, PromptSettings(), max_prompt_tokens=10_000, today=date(2025, 1, 1))
    tokens = renderer.render_all([]).special_tokens
    assert {"<|im_end|>", "<|fim_middle|>", "<tool_call>"} <= set(tokens)
    tokenizer = SimpleNamespace(
        added_tokens_decoder={
            number: SimpleNamespace(content=text) for number, text in enumerate(["    ", "let", "->", "[|", "<s>"])
        }
    )
    assert special_tokens(tokenizer) == ("<s>",)


def test_the_real_problems_fit_the_default_limit_in_qwens_tokens(qwen: Any) -> None:
    rows = [json.loads(line) for line in (SHARED_DATA / "ocaml_problems.jsonl").read_text().splitlines()]
    renderer = PromptRenderer(qwen, PromptSettings(), max_prompt_tokens=100_000, today=TODAY)
    lengths = []
    for row in rows:
        statement, _, signature = row["prompt"].rpartition("\n")
        problem = Problem(id=row["id"], statement=statement, signature=signature, tests=row["tests"])
        lengths.append(len(renderer.render(problem).token_ids))
    assert sum(length <= 704 for length in lengths) >= 0.98 * len(lengths)

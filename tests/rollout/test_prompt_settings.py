"""The ``prompt`` section: instruction, templates, chat templates with variables, and examples of a file."""

import json
import os
import signal
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cluster.errors import ModelError, PromptIncomplete, PromptTooLong
from cluster.types import Problem
from rollout import template_errors
from rollout.examples import BUILT_IN_EXAMPLES
from rollout.prompt import PromptRenderer
from rollout.prompt_settings import PromptSettings
from rollout.prompt_template import INSTRUCTION
from rollout.tokenizer import PromptEncoder

from . import chat_templates as made
from .chat_templates import BOS, CHATML, tokenizer_with

GCD = Problem(
    id="gcd",
    statement="(** Greatest common divisor.\n * >>> gcd 12 18\n * 6\n *)",
    signature="let rec gcd (a : int) (b : int) : int =",
    tests="let () = assert (gcd 35 21 = 7)",
    difficulty="easy",
    solution="let rec gcd (a : int) (b : int) : int =\n  if b = 0 then a else gcd b (a mod b)",
)
EXAMPLE = {"prompt": "(** Twice n. *)\nlet twice n =", "solution": "let twice n =\n  2 * n"}
OPTIONAL_THOUGHT = (
    CHATML.partition("{% if add")[0] + "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{{ '<think>\n' if enable_thinking else '<think>\n\n</think>\n\n' }}{% endif %}"
)
REASONING = "{{ raise_exception('no such effort') if reasoning_effort not in ['low', 'high'] }}" + CHATML


def renderer(chat_template: str | None, tokenizer: Any = None, /, **settings: Any) -> PromptRenderer:
    used = tokenizer or tokenizer_with(chat_template)
    return PromptRenderer(used, PromptSettings(**settings), max_prompt_tokens=10_000, today=date(2026, 1, 1))


def text(chat_template: str | None, /, **settings: Any) -> str:
    return renderer(chat_template, **settings).render(GCD).text


def test_the_instruction_is_replaced_or_left_out() -> None:
    assert text(CHATML, system="Be brief.").startswith(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nProblem:"
    )
    assert text(CHATML, system="").startswith("<|im_start|>user\nProblem:")
    assert text(None, system="Be brief.").startswith("(* Be brief. *)\n\n(** Greatest")
    assert text(None, system="").startswith("(** Greatest")
    for setting, start in (("Be brief.", "Be brief.\n\nProblem:"), ("", "Problem:")):
        used = renderer(made.GEMMA, system=setting)
        assert f"<start_of_turn>user\n{start}" in used.render(GCD).text
        assert any("accepts no system message" in note for note in used.notes) == bool(setting)


def test_a_template_is_the_user_message_or_the_whole_text() -> None:
    template = "Task {{ id }} ({{ difficulty }}):\n{{ statement }}\nBegin with:\n{{ signature }}"
    body = f"Task gcd (easy):\n{GCD.statement}\nBegin with:\n{GCD.signature}"
    assert text(CHATML, template=template) == (
        f"<|im_start|>system\n{INSTRUCTION}<|im_end|>\n<|im_start|>user\n{body}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert text(None, template=template) == body
    assert text(CHATML, chat="off", template=template) == body


def test_a_thought_that_a_template_of_a_whole_text_opens_is_known() -> None:
    thinking = renderer(None, template="{{ prompt }}\n<think>\n")
    assert thinking.render(GCD).opened_thought == "<think>"
    assert any("the answer comes after </think>" in note for note in thinking.notes)
    for closed in (
        renderer(None),
        renderer(None, template="Write <think> first. {{ prompt }}"),
        renderer(CHATML, template="{{ prompt }}<think>"),
    ):
        assert closed.render(GCD).opened_thought == ""
        assert not any("thought" in note for note in closed.notes)


def test_a_template_may_place_the_instruction_and_the_examples_itself(tmp_path: Path) -> None:
    file = tmp_path / "prompt.jinja"
    file.write_text(
        "{{ system }}\n{% for one in examples %}\n# {{ one.signature }}\n{% endfor %}\n{{ prompt }}\n{# end #}\n"
    )
    settings = {"template": str(file), "system": "Be brief.", "num_few_shot": 2}
    user = "Be brief.\n" + "".join(f"# {one.signature}\n" for one in BUILT_IN_EXAMPLES[:2]) + GCD.prompt
    assert text(CHATML, **settings).startswith(f"<|im_start|>user\n{user}")
    assert text(None, **settings).rstrip("\n") == user
    file.unlink()
    assert PromptSettings(template="{{ prompt }}").template == "{{ prompt }}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ prompt }}\n{{ answer }}", "line 2: there is no field 'answer': the fields are prompt, statement"),
        ("{{ prompt }}{{ tests }}", "line 1: there is no field 'tests': a model never sees it"),
        ("{{ prompt }}\n\n{% if %}", "line 3: Expected an expression"),
        ("{{ prompt", "line 1: "),
        ("{{ prompt | unheard_of }}", "line 1: No filter named 'unheard_of'"),
        ("{{ prompt }}\n{{ examples[7].prompt }}", "line 2: UndefinedError"),
        ("{{ prompt }}{{ 1 / 0 }}", "line 1: ZeroDivisionError"),
        ("{{ prompt }}{{ prompt.__class__.__mro__ }}", "line 1: SecurityError"),
        ("{{ prompt }}{% include 'x' %}", "no loader"),
        ("{{ id }}", "does not contain the problem's statement"),
        ("{{ prompt | upper }}", "does not contain the problem's statement"),
        ("{{ signature }}", "does not contain the problem's statement"),
        ("Solve it.", "nor a file that can be read: No such file"),
        ("", "nor a file that can be read"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_in_one_line(template: str, message: str) -> None:
    with pytest.raises(ValidationError, match=r"prompt.template") as refused:
        PromptSettings(template=template)
    (error,) = refused.value.errors()
    assert message in error["msg"] and "\n" not in error["msg"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ prompt }}{{ 9 ** (9 ** 9) }}", "line 1: SecurityError: the operands of ** are too large"),
        ("{{ prompt }}{{ 'x' * 50000000 }}", "line 1: SecurityError: the operands of * are too large"),
        ("{{ prompt }}{{ 'x' * 1000000 }}", "its output has 1,000,1"),
        ("{{ prompt }}{{ '\\ud800' }}", "its output holds '\\ud800', half of a character"),
        ("{{ prompt }}{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "RecursionError"),
        ("x" * 5000, "xxx...' is neither a template"),
    ],
)
def test_a_template_of_no_usable_size_is_refused(template: str, message: str) -> None:
    with pytest.raises(ValidationError, match=r"prompt.template") as refused:
        PromptSettings(template=template)
    (error,) = refused.value.errors()
    assert message in error["msg"] and len(error["msg"]) < 500


def test_a_template_that_loops_forever_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_errors, "MAX_CPU_SECONDS", 0.2)
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(ValidationError, match=r"prompt.template: it runs for more than 0.2 seconds"):
        PromptSettings(template=f"{{{{ prompt }}}}{endless}")
    with pytest.raises(ModelError, match=r"chat template cannot be used: it fails: it runs for more than 0.2 seconds"):
        renderer(f"{endless}{CHATML}")
    with pytest.raises(ModelError, match=r"fails at problem 'gcd': it runs for more than 0.2 seconds"):
        renderer(None, template=f"{{{{ prompt }}}}{{% if id == 'gcd' %}}{endless}{{% endif %}}").render_all([GCD])
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


def test_a_prompt_of_many_characters_is_too_long_without_being_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    used = renderer(None, template="{{ prompt }}{{ 'many words ' * 90000 if id == 'gcd' else '' }}")
    monkeypatch.setattr(used, "_max_prompt_tokens", 100)
    monkeypatch.setattr(PromptEncoder, "encode", lambda _self, _text: pytest.fail("encoded"))
    with pytest.raises(PromptTooLong, match=r"990,\d+ characters, more than rollout.max_prompt_tokens=100 can hold"):
        used.render(GCD)


@pytest.mark.parametrize(
    "settings",
    [
        {"system": "\ud800"},
        {"few_shot": [{"prompt": "(** \ud800 *)\nlet f x =", "solution": "let f x = x"}]},
        {"chat_template_kwargs": {"name": ["\ud800"]}},
    ],
)
def test_half_of_a_character_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=rf"prompt.{next(iter(settings))}: holds '.ud800', half of a character"):
        PromptSettings(**settings)


@pytest.mark.parametrize("setting", ["template", "few_shot"])
def test_a_file_without_an_end_is_refused(setting: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in ("/dev/zero", str(pipe)):
        with pytest.raises(ValidationError, match="it is no regular file"):
            PromptSettings(**{setting: path})


def test_a_template_that_omits_the_signature_is_logged_and_one_problems_statement_refused() -> None:
    assert "lacks {{ signature }}" in renderer(CHATML, template="{{ statement }}").notes[0]
    used = renderer(CHATML, template="{{ prompt if difficulty != 'easy' else id }}")
    with pytest.raises(PromptIncomplete, match="omits some of the text of problem 'gcd'"):
        used.render(GCD)
    with pytest.raises(PromptIncomplete, match="fails at problem 'gcd': line 1: TypeError"):
        renderer(CHATML, template="{{ prompt }}{{ '' if difficulty is none else difficulty + 1 }}").render(GCD)


def test_the_chat_template_is_required_or_turned_off() -> None:
    assert text(CHATML, chat="off") == text(None)
    assert text(CHATML, chat=True) == text(CHATML)  # YAML's on
    assert PromptSettings(chat=False).chat == "off"
    with pytest.raises(ModelError, match=r"has no chat template, and prompt.chat=on requires one"):
        renderer(None, chat="on")


@pytest.mark.parametrize(
    ("template", "thinks", "ending", "opened"),
    [
        (made.QWEN3, True, "assistant\n", ""),
        (made.QWEN3, False, "assistant\n<think>\n\n</think>\n\n", ""),
        (OPTIONAL_THOUGHT, True, "assistant\n<think>\n", "<think>"),
        (OPTIONAL_THOUGHT, False, "assistant\n<think>\n\n</think>\n\n", ""),
    ],
)
def test_a_variable_of_the_chat_template_turns_thinking_on_and_off(
    template: str, thinks: bool, ending: str, opened: str
) -> None:
    prompt = renderer(template, chat_template_kwargs={"enable_thinking": thinks}).render(GCD)
    assert prompt.text.endswith(ending)
    assert prompt.opened_thought == opened


def test_variables_that_a_chat_template_refuses_or_does_not_read_are_refused() -> None:
    assert renderer(REASONING, chat_template_kwargs={"reasoning_effort": "low"}).render(GCD)
    with pytest.raises(ModelError, match=r"with prompt.chat_template_kwargs=.*: TemplateError: no such effort"):
        renderer(REASONING, chat_template_kwargs={"reasoning_effort": "lo"})
    with pytest.raises(ModelError, match=r"does not read enable_thinkin, and.*itself: enable_thinking$"):
        renderer(made.QWEN3, chat_template_kwargs={"enable_thinkin": False})
    for template, chat in ((None, "auto"), (made.QWEN3, "off")):
        with pytest.raises(ModelError, match="are variables of the chat template, and"):
            renderer(template, chat=chat, chat_template_kwargs={"enable_thinking": False})
    with pytest.raises(ValidationError, match="Caravan sets add_generation_prompt, strftime_now itself"):
        PromptSettings(chat_template_kwargs={"add_generation_prompt": False, "strftime_now": 1})


def test_settings_without_effect_are_logged() -> None:
    (note,) = renderer(made.QWEN3, chat_template_kwargs={"enable_thinking": True}).notes
    assert "change nothing" in note
    assert renderer(made.QWEN3, chat_template_kwargs={"enable_thinking": False}).notes == ()
    (note,) = renderer(CHATML, system="Be brief.").notes
    assert "no prompt asks for (* END *)" in note
    assert renderer(CHATML, system="Be brief.", template="{{ prompt }}\nEnd with {{ end_marker }}").notes == ()
    assert renderer(None, template="{{ prompt }}", num_few_shot=0, system="Be brief. END").notes != ()


def test_own_examples_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    file.write_text(f"{json.dumps(EXAMPLE | {'tests': 'unused'})}\n\n{json.dumps(EXAMPLE)}\n")
    settings = PromptSettings(few_shot=file)
    assert settings.num_few_shot == 2 and settings.model_dump()["few_shot"] == (EXAMPLE, EXAMPLE)
    assert "Answer:\nlet twice n =\n  2 * n\n(* END *)\n\nProblem:\n(** Greatest" in text(CHATML, few_shot=file)
    one = text(None, few_shot=str(file), num_few_shot=1)
    assert (
        one.endswith(f"(** Twice n. *)\nlet twice n =\n  2 * n\n(* END *)\n\n{GCD.prompt}\n")
        and one.count("twice") == 1
    )


def test_an_end_marker_of_an_example_is_not_doubled() -> None:
    examples = [EXAMPLE | {"solution": "let twice n = 2 * n\n(* END *)\n"}]
    assert text(None, few_shot=examples).startswith("(* Solve")
    assert "let twice n = 2 * n\n(* END *)\n\n(** Greatest" in text(None, few_shot=examples)


def test_special_tokens_in_an_example_are_reported() -> None:
    (note,) = renderer(CHATML, few_shot=[EXAMPLE | {"solution": "let twice n = n + n <s>"}]).notes
    assert note.startswith("the tokenizer reads <s> in prompt.few_shot as special tokens")


def test_special_tokens_in_the_text_of_a_problem_are_reported() -> None:
    marked = replace(GCD, id="html", statement="(** Wrap a text in <s> and </s>. *)")
    rendered = renderer(CHATML).render_all([GCD, marked])
    assert len(rendered.prompts) == 2
    assert rendered.with_special_tokens == ["<s> in problem 'html'"]


def test_a_problem_that_is_an_example_has_no_prompt() -> None:
    own = [EXAMPLE, {"prompt": GCD.prompt.replace("\n", "  \n"), "solution": GCD.solution}]
    (line,) = renderer(CHATML, few_shot=own).render_all([GCD]).with_solution
    assert "'gcd' is one of the few-shot examples" in line
    assert renderer(CHATML, few_shot=own, num_few_shot=1).render_all([GCD]).prompts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("\n", "has no row"),
        (f"{json.dumps(EXAMPLE)}\n{{\n", "line 2 is not JSON"),
        ('{"prompt": "let f x ="}', "line 1: solution: Field required"),
        ('{"prompt": "let f x =", "solution": " "}', "line 1: solution: is empty"),
        ("[1]", "line 1: the row: "),
    ],
)
def test_a_file_of_examples_with_a_mistake_is_refused_with_its_line(
    content: str | None, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "examples.jsonl"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValidationError, match=r"prompt.few_shot=") as refused:
        PromptSettings(few_shot=str(file))
    assert message in refused.value.errors()[0]["msg"]


def test_more_examples_than_there_are_and_examples_that_no_prompt_shows_are_refused() -> None:
    with pytest.raises(ValidationError, match="num_few_shot=4: the built-in examples are 3"):
        PromptSettings(num_few_shot=4)
    with pytest.raises(ValidationError, match=r"num_few_shot=2: prompt.few_shot has 1"):
        PromptSettings(few_shot=[EXAMPLE], num_few_shot=2)
    with pytest.raises(ValidationError, match="shows no examples"):
        PromptSettings(template="{{ prompt }}", num_few_shot=1)
    assert "prompt.system has no effect" in renderer(None, template="{{ prompt }}", system="Be brief.").notes[0]


@pytest.mark.parametrize("template", [None, "{{ bos_token }}" + CHATML, CHATML])
@pytest.mark.parametrize("own", ["{{ prompt }}", f"{BOS}{{{{ prompt }}}}"])
def test_a_template_neither_doubles_nor_loses_the_begin_token(template: str | None, own: str) -> None:
    tokenizer = tokenizer_with(template, adds="bos")
    ids = renderer(template, tokenizer, template=own).render(GCD).token_ids
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens[0] == BOS and tokens[1] != BOS


def test_the_hash_follows_from_everything_but_the_problem(tmp_path: Path) -> None:
    variants: list[tuple[str | None, dict[str, Any]]] = [
        (CHATML, {}),
        (made.QWEN3, {"chat_template_kwargs": {"enable_thinking": False}}),
        (None, {}),
        (CHATML, {"system": "Be brief."}),
        (CHATML, {"num_few_shot": 1}),
        (CHATML, {"few_shot": [EXAMPLE]}),
        (CHATML, {"template": "{{ prompt }}"}),
        (CHATML, {"template": "{{ prompt }}{% if difficulty %}!{% endif %}"}),
    ]
    hashes = [renderer(template, **settings).template_hash for template, settings in variants]
    assert len(set(hashes)) == len(variants)
    assert hashes == [renderer(template, **settings).template_hash for template, settings in variants]
    assert renderer(CHATML).render(GCD).template_hash == hashes[0]


def test_an_answer_whose_last_token_ends_no_completion_is_logged() -> None:
    tokenizer = tokenizer_with(CHATML)
    ends = tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>"])
    for ids, logged in ((ends[:1], True), (ends, False), ((), False)):
        used = PromptRenderer(
            tokenizer, PromptSettings(), max_prompt_tokens=1000, today=date(2026, 1, 1), end_token_ids=ids
        )
        assert (
            any("ends an answer with <|im_end|>, which is no end token of the model" in note for note in used.notes)
            == logged
        )

"""Prompts with the chat templates of many model families, and one-line refusals."""

from datetime import date
from typing import Any

import pytest

from cluster.errors import ModelError, PromptIncomplete
from cluster.thought_tags import THOUGHT_CLOSING, THOUGHT_OPENING
from cluster.types import Problem
from rollout.chat_template import closing_tag
from rollout.examples import BUILT_IN_EXAMPLES
from rollout.prompt import PromptRenderer
from rollout.prompt_settings import PromptSettings
from rollout.prompt_template import INSTRUCTION

from . import chat_templates as made
from .chat_templates import BOS, CHATML, EOS, tokenizer_with

PROBLEM = Problem(
    id="gcd",
    statement='(** Greatest common divisor of <a> & "b", no \\n.\n * >>> gcd 12 18\n * 6\n *)',
    signature="let rec gcd (a : int) (b : int) : int =",
    tests="let () = assert (gcd 35 21 = 7)",
)
NEW_YEAR, LATER = date(2026, 1, 1), date(2027, 6, 15)
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
EACH = "{% for message in messages %}"
FAMILIES = {
    "gemma": (made.GEMMA, "<start_of_turn>model\n"),
    "llama": (made.LLAMA, "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    "mistral": (made.MISTRAL, " [/INST]"),
    "deepseek": (made.DEEPSEEK, "<|Assistant|><think>\n"),
    "qwen3": (made.QWEN3, "<|im_start|>assistant\n"),
    "smollm": (made.SMOLLM, "<|im_start|>assistant\n"),
    "command": (made.COMMAND, "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"),
    "phi": (made.PHI, "<|assistant|>\n"),
    "harmony": (made.HARMONY, "<|start|>assistant"),
    "parts": (made.PARTS, "<|im_start|>assistant\n"),
}


def renderer(tokenizer: Any, today: date = NEW_YEAR) -> PromptRenderer:
    return PromptRenderer(tokenizer, PromptSettings(), max_prompt_tokens=10_000, today=today)


@pytest.mark.parametrize("adds", ["", "bos", "both"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_gets_one_complete_question_with_one_begin_token_and_an_open_answer(family: str, adds: str) -> None:
    template, opening = FAMILIES[family]
    tokenizer = tokenizer_with(template, adds=adds)
    prompt = renderer(tokenizer).render(PROBLEM)
    assert prompt.text.count(PROBLEM.prompt) == 1 and prompt.text.count(INSTRUCTION) == 1
    assert prompt.text.endswith(opening)
    tokens = tokenizer.convert_ids_to_tokens(prompt.token_ids)
    writes_bos = "bos_token" in template
    assert tokens.count(BOS) == (1 if writes_bos or adds else 0) and BOS not in tokens[1:]
    assert tokens[-1] != EOS and EOS not in tokens


def test_a_missing_begin_token_is_added_and_logged() -> None:
    (note,) = renderer(tokenizer_with(CHATML, adds="bos")).notes
    assert "does not write <s>" in note
    assert renderer(tokenizer_with(CHATML)).notes == ()
    assert renderer(tokenizer_with("{{ bos_token }}" + CHATML, adds="bos")).notes == ()


def test_a_duplicate_begin_token_is_removed() -> None:
    tokenizer = tokenizer_with("{{ bos_token }}{{ bos_token }}" + CHATML, adds="bos")
    used = renderer(tokenizer)
    assert "twice" in used.notes[0]
    assert tokenizer.convert_ids_to_tokens(used.render(PROBLEM).token_ids)[:2] == [BOS, "<|im_start|>"]


@pytest.mark.parametrize(("adds", "begins", "num_notes"), [("", 0, 0), ("bos", 1, 0), ("eos", 0, 1), ("both", 1, 1)])
def test_a_text_to_continue_has_the_begin_token_and_no_end_token(adds: str, begins: int, num_notes: int) -> None:
    tokenizer = tokenizer_with(adds=adds)
    used = renderer(tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(used.render(PROBLEM).token_ids)
    assert tokens.count(BOS) == begins and tokens[0] == (BOS if begins else tokens[0])
    assert EOS not in tokens
    assert len(used.notes) == num_notes


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (made.GEMMA, "System role not supported"),
        (made.MISTRAL, "roles must alternate"),
        (
            f"{EACH}{{% if message.role != 'system' %}}{{{{ message.content }}}}{{% endif %}}{{% endfor %}}{ASK}",
            "the prompt lacks it",
        ),
        ("{{ messages[-1].content }}" + ASK, "the prompt lacks it"),
    ],
)
def test_without_system_message_the_instruction_precedes_the_question(template: str, why: str) -> None:
    used = renderer(tokenizer_with(template))
    (note,) = (note for note in used.notes if "system message" in note)
    assert why in note
    text = used.render(PROBLEM).text
    assert text.index(INSTRUCTION) < text.index(PROBLEM.prompt)


@pytest.mark.parametrize(
    ("template", "opening"),
    [
        (CHATML.partition("{% if add")[0], "<|im_end|>\n<|im_start|>assistant\n"),
        (f"{EACH}{{{{ message.role }}}}: {{{{ message.content }}}}\n{{% endfor %}}", "\nassistant:"),
        (made.MISTRAL, " [/INST]"),
    ],
)
def test_a_template_that_ignores_add_generation_prompt_still_opens_an_answer(template: str, opening: str) -> None:
    assert renderer(tokenizer_with(template)).render(PROBLEM).text.endswith(opening)


@pytest.mark.parametrize(
    "template", [f"{EACH}{{{{ message.content }}}}{{{{ eos_token }}}}{{% endfor %}}", CHATML + "{{ eos_token }}"]
)
def test_an_end_token_after_the_question_is_removed_and_logged(template: str) -> None:
    tokenizer = tokenizer_with(template)
    used = renderer(tokenizer)
    assert f"ends each prompt with {EOS}" in " ".join(used.notes)
    assert tokenizer.convert_ids_to_tokens(used.render(PROBLEM).token_ids)[-1] != EOS


@pytest.mark.parametrize("written", ["| tojson", "| e", "| trim", "| replace('\n', ' ')", "| indent(2)"])
def test_a_template_may_escape_the_text(written: str) -> None:
    renderer(tokenizer_with(f"{EACH}[{{{{ message.content {written} }}}}]{{% endfor %}}{ASK}")).render(PROBLEM)


@pytest.mark.parametrize(
    "template",
    [
        "Hello",
        " ",
        f"{EACH}{{{{ message.text }}}}{{% endfor %}}{ASK}",
        f"{EACH}{{{{ message.content | upper }}}}{{% endfor %}}{ASK}",
        f"{EACH}{{{{ message.content[:80] }}}}{{% endfor %}}{ASK}",
    ],
)
def test_a_template_that_loses_the_problems_text_is_refused(template: str) -> None:
    with pytest.raises(ModelError, match="does not contain the problem's text"):
        renderer(tokenizer_with(template))


def test_only_the_problem_with_lost_text_is_refused() -> None:
    used = renderer(tokenizer_with(f"{EACH}{{{{ message.content | replace('gcd', 'f') }}}}{{% endfor %}}{ASK}"))
    with pytest.raises(PromptIncomplete, match="'gcd'"):
        used.render(PROBLEM)
    refuses_gcd = "{% if 'gcd' in messages[-1].content %}{{ raise_exception('No gcd') }}{% endif %}"
    with pytest.raises(PromptIncomplete, match="'gcd': line 1: TemplateError: No gcd"):
        renderer(tokenizer_with(refuses_gcd + CHATML)).render(PROBLEM)
    rendered = used.render_all([PROBLEM])
    assert (rendered.prompts, len(rendered.incomplete), rendered.too_long) == ({}, 1, [])


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("{% for m in messages %}\n{{ m.content }", "line 2: TemplateSyntaxError"),
        ("\n\n{% endfor %}", "line 3: TemplateSyntaxError"),
        (CHATML + "\n{{ helper(messages) }}", "line 5: UndefinedError: 'helper' is undefined"),
        (CHATML + "{% for tool in tools %}{% endfor %}", "line 4: TypeError"),
        ("{% if not tools %}{{ raise_exception('Needs tools') }}{% endif %}" + CHATML, "TemplateError: Needs tools"),
        (CHATML + "{{ 1 // 0 }}", "ZeroDivisionError"),
        (CHATML + "{{ messages.append(1) }}", "SecurityError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        (CHATML + "{{ lipsum() }}", "output differs between calls"),
        (CHATML + "{{ range(1000) | random }}", "output differs between calls"),
        ({"rag": CHATML, "tool_use": CHATML}, "several chat templates (rag, tool_use)"),
    ],
)
def test_an_unusable_template_is_refused_in_one_line_with_the_line_number(template: Any, named: str) -> None:
    with pytest.raises(ModelError) as refused:
        renderer(tokenizer_with(template))
    assert named in str(refused.value) and "\n" not in str(refused.value)


def test_the_default_of_several_templates_is_used() -> None:
    tokenizer = tokenizer_with({"default": CHATML, "tool_use": "Hello"})
    assert renderer(tokenizer).render(PROBLEM) == renderer(tokenizer_with(CHATML)).render(PROBLEM)


@pytest.mark.parametrize("family", ["llama", "smollm", "harmony"])
def test_a_template_writes_the_configured_date(family: str) -> None:
    tokenizer = tokenizer_with(FAMILIES[family][0])
    first, again, later = (renderer(tokenizer, day) for day in (NEW_YEAR, NEW_YEAR, LATER))
    assert first.render(PROBLEM) == again.render(PROBLEM) != later.render(PROBLEM)
    assert "2026" in first.render(PROBLEM).text and "2027" in later.render(PROBLEM).text
    assert "prompt.date=2026-01-01" in first.notes[0]


@pytest.mark.parametrize(
    ("template", "opened"),
    [
        (made.DEEPSEEK, "<think>"),
        (CHATML.replace("assistant\n", "assistant\n<Thinking>\n"), "<Thinking>"),
        (CHATML.replace("assistant\n", "assistant\n<seed:think>"), "<seed:think>"),
        (CHATML.replace("assistant\n", "assistant\n[THINK]"), "[THINK]"),
        (CHATML.replace("assistant\n", "assistant\n<reasoning>\nOkay,"), "<reasoning>"),
        (made.HARMONY.replace("assistant{% endif %}", "assistant<|channel|>analysis<|message|>{% endif %}"), None),
        (CHATML.partition("{% if add")[0] + "<|im_start|>assistant\n<think>\n", "<think>"),
        (made.QWEN3, ""),
        (made.QWEN3.replace("is defined and enable_thinking is false", "is not defined"), ""),
        (CHATML.replace("{{ message.content }}", "{{ message.content }}\nThink in <think> first."), ""),
        (made.HARMONY, ""),
        (None, ""),
    ],
)
def test_an_opened_thought_is_detected(template: str | None, opened: str | None) -> None:
    expected = "<|channel|>analysis<|message|>" if opened is None else opened
    assert renderer(tokenizer_with(template)).render(PROBLEM).opened_thought == expected


def test_completions_keep_special_tokens_that_mark_thoughts() -> None:
    assert renderer(tokenizer_with(CHATML, special=("[THINK]", "[/THINK]"))).render(PROBLEM).keeps_special_tokens
    assert renderer(tokenizer_with(CHATML, special=("<|channel|>",))).render(PROBLEM).keeps_special_tokens
    assert not renderer(tokenizer_with(made.DEEPSEEK)).render(PROBLEM).keeps_special_tokens


@pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("<think>", "</think>"),
        ('<Thought type="x">', "</Thought>"),
        ("<seed:think>", "</seed:think>"),
        ("[THINK]", "[/THINK]"),
        ("<|begin_of_thought|>", "<|end_of_thought|>"),
        ("<|START_THINKING|>", "<|END_THINKING|>"),
        ("<|think|>", "<|/think|>"),
        ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
        ("<|channel>thought", "<channel|>"),
        ("<|inner_prefix|>", "<|inner_suffix|>"),
        ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ],
)
def test_each_tag_has_its_closing_tag(opening: str, closing: str) -> None:
    assert closing_tag(opening).lower() == closing.lower()
    assert THOUGHT_OPENING.fullmatch(opening) and THOUGHT_CLOSING.search(closing)


def test_a_bert_like_tokenizer_adds_its_begin_token_and_no_end_token() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    texts = [PROBLEM.prompt, INSTRUCTION, *(example.prompt for example in BUILT_IN_EXAMPLES)]
    backend.train_from_iterator(texts, trainers.WordPieceTrainer(special_tokens=["[UNK]", "[CLS]", "[SEP]"]))
    special_ids = [("[CLS]", 1), ("[SEP]", 2)]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special_ids)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )
    used = renderer(tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(used.render(PROBLEM).token_ids)
    assert (tokens[0], tokens[-1], tokens.count("[CLS]")) == ("[CLS]", "=", 1)
    assert "removed" in used.notes[0]


def test_a_tokenizer_that_does_not_decode_to_the_text_is_refused() -> None:
    from tokenizers import normalizers

    for normalizer in (normalizers.Lowercase(), normalizers.Replace(" ", ""), normalizers.Replace("=", "")):
        with pytest.raises(ModelError, match="tokens do not decode to"):
            renderer(tokenizer_with(normalizer=normalizer))
    for lossless in (normalizers.NFKC(), normalizers.Replace("\n", " ")):
        renderer(tokenizer_with(normalizer=lossless)).render(PROBLEM)

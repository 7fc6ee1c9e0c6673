"""The answer in a completion's text: thoughts, special tokens and other roles' turns, in every spelling."""

import pytest

from cluster.thought_tags import THOUGHT_CLOSING, THOUGHT_OPENING
from grader.answer import find_answer, with_opened_thought
from grader.chat_tokens import tag_family, token_patterns

CODE = "let add a b = a + b"
DRAFT = "let add a b = a"

TAGS = [
    ("<think>", "</think>"),
    ("<Think>", "</THINK>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<thought_process>", "</thought_process>"),
    ("<reasoning>", "</reasoning>"),
    ("<reason>", "</reason>"),
    ("<reflection>", "</reflection>"),
    ("<analysis>", "</analysis>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<scratch_pad>", "</scratch_pad>"),
    ("<inner_monologue>", "</inner_monologue>"),
    ("<antThinking>", "</antThinking>"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ('<think budget="512">', "</think>"),
    ("<think lang=en mode='deep'>", "</think >"),
    ("< think >", "</ think >"),
    ("<think\n>", "</think>"),
    ("<think>", "<\\/think>"),
    ("&lt;think&gt;", "&lt;/think&gt;"),
    ("[THINK]", "[/THINK]"),
    ("[think]", "[/think]"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    ("<|think|>", "<|/think|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|thinking_start|>", "<|thinking_end|>"),
    ("<\uff5cthink\uff5c>", "<\uff5c/think\uff5c>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<unused94>thought\n", "<unused95>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<plan>", "</plan>"),
    ("<self_reflection>", "</self_reflection>"),
    ("<|startofthought|>", "<|endofthought|>"),
    ("<\uff5cbegin\u2581of\u2581thinking\uff5c>", "<\uff5cend\u2581of\u2581thinking\uff5c>"),
    ("<|plamo:begin_think:plamo|>", "<|plamo:end_think:plamo|>"),
    ("<|content_thinking|>", "<|end_message|><|message_model|><|content_text|>"),
    ("<|open|>think<|sep|>", "<|close|>think<|sep|><|open|>response<|sep|>"),
    ("<|im_start|>think\n", "<|im_end|>\n<|im_start|>answer\n"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|channel|>commentary to=functions.x <|constrain|>json<|message|>", "<|channel|>final<|message|>"),
    ("<|start|>assistant<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|message|>"),
    ("analysisWe need it. ", "assistantfinal"),
    ("analysisuser wants it. ", "assistantfinal"),
    ("assistantanalysisLet me see. ", "assistantfinal"),
    ("Here is my thought process: ", "Here is my response:"),
    ("Thinking...\n", "...done thinking."),
]


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n")]


@pytest.mark.parametrize(("opening", "closing"), TAGS)
@pytest.mark.parametrize("after", ["", "\n", "\n\n", " "])
def test_a_finished_thought_is_dropped_and_lines_keep_their_numbers(opening: str, closing: str, after: str) -> None:
    text = f"{opening}Maybe\n```ocaml\n{DRAFT}\n```\nor not.{closing}{after}{CODE}"
    assert lines(find_answer(text).text) == ["" if CODE not in line else CODE for line in text.split("\n")]


@pytest.mark.parametrize(("opening", "closing"), TAGS)
@pytest.mark.parametrize("thought", [f"Maybe\n```ocaml\n{DRAFT}\n```\nor", "", f"\n{DRAFT}", " it's 5\" wide, (* or"])
def test_an_unfinished_thought_is_no_answer(opening: str, closing: str, thought: str) -> None:
    found = find_answer(f"{opening}{thought}")
    if opening.startswith(("assistant", "analysis")):
        found = find_answer(f"{opening}Maybe {thought}")
    assert not found.text.strip()
    assert "is not finished" in found.no_answer_reason


@pytest.mark.parametrize(("opening", "closing"), TAGS)
def test_a_closing_tag_alone_ends_a_thought_that_the_prompt_opened(opening: str, closing: str) -> None:
    if closing.startswith(("Here", "...")):
        pytest.skip("words alone are no tag")
    assert find_answer(f"It's\n{DRAFT}\nor.{closing}{CODE}").text.strip() == CODE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Nested, repeated, mismatched
        (f"<think>a <think>b</think> {DRAFT}", ""),
        (f"<think>a <think>b</think> c</think>{CODE}", CODE),
        (f"<think>\n<think>\na</think>{CODE}", CODE),
        (f"<think><think><think>a</think>{CODE}", CODE),
        (f"<think>a</think><think>b</think>{CODE}", CODE),
        (f"<think>a</think>{DRAFT}</think>{CODE}", CODE),
        (f"<think>a</think>\n{DRAFT}\n<think>b</think>\n</think>{CODE}", CODE),
        (f"<think>a</think>{CODE}\n<think>{DRAFT}", ""),
        (f"{CODE}\n<think>{DRAFT}", ""),
        (f"{CODE}\n<think>{DRAFT}</think>\n", CODE),
        (f"{CODE}\n(* END *)\n<think>{DRAFT}", f"{CODE}\n(* END *)"),
        (f"<think>a <reflection>b</reflection> {DRAFT}", ""),
        (f"<think>a <reflection>b</think>{CODE}", CODE),
        (f"<seed:think>a<seed:cot_budget_reflect>b</seed:cot_budget_reflect>c</seed:think>{CODE}", CODE),
        (f"<think>a</thinking>{CODE}", CODE),
        (f"<think>a</reasoning>{DRAFT}", ""),
        (f"<think/>{CODE}", CODE),
        (f"<think></think>{CODE}", CODE),
        # In a fence
        (f"```thinking\n{DRAFT}\n```\n{CODE}", CODE),
        (f"```thinking\n{DRAFT}\n```\n```ocaml\n{CODE}\n```", f"```ocaml\n{CODE}\n```"),
        (f"```Reasoning\n{DRAFT}\n", ""),
        (f"```thinking\n{DRAFT}\n```", ""),
        (f"```ocaml\n{CODE}\n```", None),
        # Tags that are mentioned
        (f"<think>I close it with `</think>` and write {DRAFT}", ""),
        (f'<think>The tag "</think>" ends it. {DRAFT}', ""),
        (f"<think>Then `</think>` comes.</think>{CODE}", CODE),
        (f"Without the `<think>` tag:\n{CODE}", f"Without the `<think>` tag:\n{CODE}"),
        # Tags in literals and comments of the code
        (f'let tag = "<think>"\n{CODE}', f'let tag = "<think>"\n{CODE}'),
        (f'let tag = "a <think> b </think>"\n{CODE}', f'let tag = "a <think> b </think>"\n{CODE}'),
        (f"let tag = {{|<think>|}}\n{CODE}", f"let tag = {{|<think>|}}\n{CODE}"),
        (f"(* no <think> here *)\n{CODE}", f"(* no <think> here *)\n{CODE}"),
        (f"(* <think> {DRAFT}", ""),
        (f'let tag = "<think> {DRAFT}', ""),
        (f"let tag = {{|\n<s>\n</s>|}}\n{CODE}", f"let tag = {{|\n<s>\n</s>|}}\n{CODE}"),
        (f"let f = function [thought] -> [\n  thought] | _ -> []\n{CODE}", None),
        ("let f reason = if reason then\n  [reason]\nelse []", None),
        ("let f x reason y = x < reason && reason > y", None),
        # Tokens
        (f"{CODE}<|im_end|>\n<|im_start|>assistant\n{DRAFT}", CODE),
        (f"{CODE}</s>[INST] another [/INST] {DRAFT}", CODE),
        (f"{CODE}<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nThanks", CODE),
        (f"{CODE}<end_of_turn>\n<start_of_turn>user\nThanks", CODE),
        (f"{CODE}<|file_sep|>other.ml\n{DRAFT}", CODE),
        (f"{CODE}<fim_middle>{DRAFT}", CODE),
        (f"{CODE}\n<\uff5cUser\uff5c>{DRAFT}<\uff5cAssistant\uff5c>{DRAFT}", CODE),
        (f"{CODE}[|endofturn|]", CODE),
        (f"{CODE}<|END_OF_TURN_TOKEN|>", CODE),
        (f"{CODE}<|unheard_of|>", CODE),
        (f"{CODE}<pad><pad>", CODE),
        (f"<s>{CODE}", CODE),
        (f"<s> [INST] Add. [/INST] {CODE}</s>", CODE),
        (f"<|begin_of_text|><|start_header_id|>assistant<|end_header_id|>\n\n{CODE}<|eot_id|>", CODE),
        (f"<|im_start|>user\n{DRAFT}<|im_end|>\n<|im_start|>assistant\n{CODE}<|im_end|>", CODE),
        (f"<|user|>\n{DRAFT}", ""),
        (f"<start_of_turn>model\n{CODE}<end_of_turn>", CODE),
        (f"<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{CODE}", CODE),
        (f"[|assistant|]{CODE}[|endofturn|]", CODE),
        (f"<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>{CODE}<|END_RESPONSE|>", CODE),
        (f"<|begin_of_thought|>a<|end_of_thought|>\n\n<|begin_of_solution|>\n{CODE}\n<|end_of_solution|>", CODE),
        (f"<think>{DRAFT}<|im_end|>\n<|im_start|>user\nGo on</think>{CODE}", ""),
        (f"<think>a</think><|im_end|>\n<|im_start|>assistant\n{DRAFT}", ""),
        ("let add a b = Ob<|im_end|>j.magic a", "let add a b = Ob"),
        ("let add a b = Ob<pad>\nj.magic a", "let add a b = Ob \nj.magic a"),
        ('let close s = s ^ "</s>" ^ "<|im_end|>"', None),
        ("let f a b c = a <|b|> c", None),
        ("let ( <|x|> ) = 1", None),
        # Harmony
        (f"<|channel|>analysis<|message|>{DRAFT}<|end|>", ""),
        (
            f"<|channel|>final<|message|>{CODE}<|end|><|start|>assistant<|channel|>final<|message|>{DRAFT}<|return|>",
            CODE,
        ),
        (f"<|channel|>final<|message|>{CODE}<|return|><|start|>user<|message|>more", CODE),
        (f"final{CODE}", CODE),
        ("analysis of it:\nlet x = 1", None),
        ("Analysis shows that the assistant finally answers", None),
        ("analysis_of b a", None),
        ("let assistantfinal = 1", None),
        ("let x'assistantfinal = 1", None),
    ],
)
def test_find_answer_keeps_the_expected_text(text: str, expected: str | None) -> None:
    assert find_answer(text).text.strip() == (text if expected is None else expected)


TOKENS = [
    "<\uff5cend\u2581of\u2581sentence\uff5c>", "<seed:eos>", "<[end\u2581of\u2581sentence]>", "<[fim-middle]>",
    "<fim_middle>", "<fim-prefix>", "<|fim_suffix|>", "<file_sep>", "<|file_sep|>", "<filename>lib/a.ml\n",
    "<issue_start>", "<|im_end|>", "<|im_sep|>", "<|eot_id|>", "<|eom|>", "<end_of_turn>", "<end_of_utterance>", "<turn|>",
    "<eos>", "</s>", "<eoa>", "\u2581<EOT>", "<PRE>", "<|EOT|>", "<|return|>", "<|END_OF_TURN_TOKEN|>", "<|END_TEXT|>",
    "<|end_of_role|>", "<|message_sep|>", "<|assistant_end|>", "<|endofassistant|>", "<tool_call>",
    "<\uff5ctool\u2581calls\u2581end\uff5c>", "[e~[", "<minimax:eos>", "[|endofturn|]", "[/INST]",
    "<|start_header_id|>user<|end_header_id|>", "<|header_start|>user<|header_end|>", "<|im_user|>user<|im_middle|>",
    "<|user_start|>", "<start_of_turn>user\n", "<|call|>",
]  # fmt: skip


@pytest.mark.parametrize("token", TOKENS)
def test_the_answer_ends_at_the_end_of_a_text_a_file_or_a_turn(token: str) -> None:
    assert find_answer(f"{CODE}{token}{DRAFT}").text.strip() in (CODE, DRAFT)  # [/INST] starts the assistant's turn
    assert find_answer(f"{CODE}\n{token}").text.strip() == CODE
    assert find_answer(f'let s = "{token.strip()}"\n{CODE}').text == f'let s = "{token.strip()}"\n{CODE}'


@pytest.mark.parametrize(
    "token",
    [
        "<pad>", "<unk>", "<s>", "<bos>", "<seed:bos>", "<|begin_of_text|>", "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
        "[gMASK]<sop>", "<|assistant|>", "<start_of_turn>model\n", "<|header_start|>assistant<|header_end|>\n",
        "<|im_assistant|>assistant<|im_middle|>", "<|assistant_start|>", "<unused12>", "<extra_id_0>",
        "<[PAD\u2581TOKEN]>",
    ],
)  # fmt: skip
@pytest.mark.parametrize("before", ["", "<think>a</think>"])
def test_a_token_may_precede_the_answer(before: str, token: str) -> None:
    assert find_answer(f"{before}{token}{CODE}").text.strip() == CODE


@pytest.mark.parametrize(
    "code",
    [
        "let l = [EOS]",
        "let l = [BOS; EOS]",
        "let l =\n  [PAD]\nlet m = 1",
        "let f = g [MASK] x",
        "let l = f x[EOS]",
        "a <b> c",
        "let f x <b> = x",
    ],
)
def test_lists_that_look_like_tokens_are_code(code: str) -> None:
    assert find_answer(f"{code}\n{CODE}").text == f"{code}\n{CODE}"


def test_tokens_in_square_brackets_end_the_answer_behind_it() -> None:
    for token in ("[EOS]", "[PAD]", "[SUFFIX]", "[TOOL_CALLS]", "[unused3]"):
        for text in (f"{CODE}{token}", f"{CODE}\n{token}\n", f"```ocaml\n{CODE}{token}\n```", f"{CODE}{token}{token}"):
            assert token not in find_answer(text).text


def test_the_tokenizers_own_tokens_end_the_text_too() -> None:
    own = token_patterns(("<0xEOT>", "\u2581END", "</s>", ""))
    assert find_answer(f"{CODE}<0xEOT>{DRAFT}", own).text == CODE
    assert find_answer(f"{CODE}\u2581END", own).text == CODE
    assert find_answer(f'let s = "<0xEOT>"\n{CODE}<0xEOT>', own).text == f'let s = "<0xEOT>"\n{CODE}'
    assert find_answer(f"{CODE}<0xEOT>").text == f"{CODE}<0xEOT>"
    assert find_answer(f"{CODE} [MIDDLE] {DRAFT}", token_patterns(("[MIDDLE]",))).text == f"{CODE} "


def test_a_program_with_tokens_in_its_literals_is_kept_verbatim() -> None:
    text = f'let page = "\n```\n<think>\n"\n{CODE}'
    assert find_answer(text).verbatim == text
    assert find_answer(f"let me think <think>{CODE}").verbatim == ""


def test_tags_of_one_family_close_each_other() -> None:
    names = ("think", "thinking", "seed:think", "end_of_thought", "thoughts")
    assert {tag_family(name) for name in names} == {"think"}
    assert tag_family("reasoning") != tag_family("reflection") != tag_family("think")


@pytest.mark.parametrize("tag", [opening for opening, _ in TAGS if opening[0] in "<[\u25c1" and "json" not in opening])
def test_a_thought_that_the_prompt_opened_with_any_tag_is_no_answer(tag: str) -> None:
    assert not find_answer(with_opened_thought(tag, f"Maybe\n{DRAFT}")).text.strip()
    assert not find_answer(with_opened_thought(f"{tag}\n", f"{tag}\n{DRAFT}")).text.strip()
    assert THOUGHT_OPENING.search(tag) and not THOUGHT_CLOSING.search(tag)


@pytest.mark.parametrize(
    "tag", [closing for _, closing in TAGS if closing[0] in "<[\u25c1" and "message" not in closing]
)
def test_closing_tags_are_distinguished_from_opening_ones(tag: str) -> None:
    assert find_answer(with_opened_thought("{thinking}", f"Maybe\n{DRAFT}{tag}{CODE}")).text.strip() in (CODE, "")
    tag = tag.replace("\\", "")
    assert THOUGHT_CLOSING.search(tag) and not THOUGHT_OPENING.search(tag)


@pytest.mark.parametrize(
    "opening",
    [
        '<think note="a > b">',
        f'<think note="{"x" * 300}">',
        "<think a b c d e f g h i j>",
        "<think it's hard>",
        '<think a  =  "b">',
    ],
)
def test_a_tag_with_any_attributes_opens_a_thought(opening: str) -> None:
    read = find_answer(f"{opening}\n{CODE}")
    assert not read.text.strip()
    assert "is not finished" in read.no_answer_reason

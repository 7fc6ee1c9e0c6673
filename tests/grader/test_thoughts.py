"""The thoughts of a completion: their positions in its text, and the number of tokens in them."""

import pytest

from cluster.thought_tags import may_hold_thought
from cluster.types import FinishReason
from grader.answer import find_answer
from grader.grade import Grader
from grader.reward import profile_of, score
from grader.settings import GraderSettings, ThoughtTokenSettings
from grader.thoughts import EditedText, Thought, num_thought_tokens

from .attacks import TEXT_ATTACKS
from .problems import TWICE
from .test_answer import TAGS
from .thought_attacks import THOUGHT_ATTACKS

CODE = "let twice x = x + x"


def thoughts_in(text: str) -> list[str]:
    """The parts of the completion that are thoughts."""
    return [text[thought.start : thought.end] for thought in find_answer(text).thoughts]


@pytest.mark.parametrize(("opening", "closing"), TAGS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_positions_of_a_thought_are_those_of_the_completion(opening: str, closing: str, newline: str) -> None:
    thought = f"{opening}Maybe {newline}this{newline}{closing}".replace("\r\n", "\n").replace("\n", newline)
    assert [one.strip() for one in thoughts_in(f"{thought}{CODE}{newline}")] == [thought.strip()]
    assert may_hold_thought(thought)
    assert may_hold_thought(f"x{closing}") or not find_answer(f"x{closing}").thoughts


@pytest.mark.parametrize(
    ("text", "thoughts"),
    [
        (CODE, []),
        (f'let s = "<think>a</think>"\n{CODE}', []),
        (f"{CODE}<|im_end|>\n<think>a</think>", []),
        (f"<think>a</think>b<think>c</think>\n{CODE}", ["<think>a</think>", "<think>c</think>"]),
        (f"{CODE}\n<think>a</think>\n", ["<think>a</think>"]),
        (f"{CODE}\n<think>a", ["<think>a"]),
        (f"a <think>b <think>c</think> d</think>{CODE}", ["<think>b <think>c</think> d</think>"]),
        # What is left out before the answer is no cheaper than a thought.
        (f"a\n</think>{CODE}", ["a\n</think>"]),
        (f"<think></think>a\n</think>{CODE}", ["<think></think>a\n</think>"]),
        (
            f"<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n{CODE}",
            ["<|im_start|>user\na<|im_end|>\n<|im_start|>assistant"],
        ),
        (f"a<|channel|>final<|message|>{CODE}", ["a<|channel|>final<|message|>"]),
    ],
)
def test_all_text_left_out_before_and_within_the_answer_is_a_thought(text: str, thoughts: list[str]) -> None:
    assert thoughts_in(text) == thoughts


@pytest.mark.parametrize("text", [*THOUGHT_ATTACKS.values(), *(t for t in TEXT_ATTACKS.values() if len(t) < 5000)])
def test_no_thought_escapes_the_samplers_search_for_thoughts(text: str) -> None:
    assert may_hold_thought(text) or not find_answer(text).thoughts


def test_code_is_not_searched_for_thoughts() -> None:
    assert not may_hold_thought(
        "let f a b = if a < b && a <> b then a <- b else [a; b] |> List.map (fun x -> x) (* END *)"
    )


def test_tokens_that_begin_in_a_thought_count() -> None:
    thoughts = [Thought(2, 6, 0, ""), Thought(8, 9, 0, "")]
    assert num_thought_tokens(thoughts, range(1, 11)) == 5
    assert num_thought_tokens(thoughts, (2, 4, 6, 8, 10)) == 3
    assert num_thought_tokens(thoughts, (3, 7, 10)) == 1
    assert num_thought_tokens([], ()) == 0
    assert num_thought_tokens(thoughts, ()) is None


def test_tokens_without_text_count_where_they_stand() -> None:
    assert num_thought_tokens([Thought(0, 4, 0, "")], (2, 2, 2, 4, 6)) == 4
    assert num_thought_tokens([Thought(0, 4, 0, "")], (2, 4, 4, 4)) == 4


def test_positions_survive_several_edits() -> None:
    edited = EditedText("a\r\nb\r\nc").replaced([(1, 3, "\n"), (4, 6, "\n")]).replaced([(0, 2, "<think>")])
    assert edited.text == "<think>b\nc"
    assert [edited.original(edited.text.index(char)) for char in "bc"] == [3, 6]


@pytest.mark.parametrize(
    ("text", "opened", "expected"),
    [
        (f"<think>Hm.</think>{CODE}", "", len("<think>Hm.</think>")),
        (f"Hm.</think>{CODE}", "<think>", len("Hm.</think>")),
        (f"Hm.\r\n</think>\r\n{CODE}", "{ponder}", len("Hm.\r\n</think>")),
        (f"Hm. {CODE}", "<think>", len(f"Hm. {CODE}")),
        (CODE, "", 0),
        (f'let page = "\n```\n<think>\n"\n{CODE}', "", 0),
    ],
)
def test_a_grade_has_the_number_of_thought_tokens(grader: Grader, text: str, opened: str, expected: int) -> None:
    ends = range(1, len(text) + 1)
    assert grader.grade(TWICE, text, FinishReason.STOP, opened, ends).facts.num_thought_tokens == expected
    unknown = grader.grade(TWICE, text, FinishReason.STOP, opened).facts.num_thought_tokens
    assert unknown == (0 if expected == 0 else None)


HIDDEN = {
    "closed early": "<think></think>We double it. " * 9,
    "closed early by another tag": "<think>a</reasoning>We double it.</think>",
    "closed in quotes": "<think>I say '</think>' and go on.</think>",
    "opened again": "<think><think>We double it.</think></think>",
    "a turn of the user": "<|im_start|>user\nWe double it.<|im_end|>\n<|im_start|>assistant\n",
    "a lone closing tag": "We double it.</think>",
    "an answer that is begun again": f"{CODE}\n</think>",
    "words for tags": "analysisWe double it.assistantfinal",
    "another channel": "<|channel|>commentary<|message|>We double it.<|channel|>final<|message|>",
}


@pytest.mark.parametrize("hidden", HIDDEN.values(), ids=HIDDEN.keys())
def test_no_mark_of_a_thought_makes_its_tokens_free(hidden: str) -> None:
    text = f"{hidden}{CODE}"
    found = find_answer(text)
    outside = "".join(
        char for place, char in enumerate(text) if not any(one.start <= place < one.end for one in found.thoughts)
    )
    assert found.thoughts and outside.split() == found.text.split()  # the rest is measured as text of the answer


def test_the_price_and_the_cap_lower_the_reward_of_a_grade(grader: Grader) -> None:
    text = f"<think>{'Hm. ' * 100}</think>{CODE}\n(* END *)"
    grade = grader.grade(TWICE, text, FinishReason.STOP, "", range(1, len(text) + 1))
    for thoughts, expected in (({"price": 1}, 0.585), ({"price": 100}, 0.0), ({"cap": 414}, 0.0), ({"cap": 415}, 1.0)):
        settings = GraderSettings(min_code_lines=0, thought_tokens=ThoughtTokenSettings.model_validate(thoughts))
        assert score(grade.facts, profile_of(settings)).reward == pytest.approx(expected)

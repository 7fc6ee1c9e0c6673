import time
import tracemalloc

import pytest

from grader.extract import Extraction, extract
from grader.languages import other_language
from grader.lexical import end_marker, num_code_lines, without_comments
from grader.quality_flags import text_quality

SIGNATURE = "let add (a : int) (b : int) : int ="
STATEMENT = '(** Add two numbers, say "one and two.\n * >>> add 1 2\n * 3\n *)'
CODE = "let add a b = a + b"


def extracted(text: str, signature: str = SIGNATURE) -> Extraction:
    return extract(text, signature=signature, name="add", statement=STATEMENT)


def sources(text: str) -> list[str]:
    return [candidate.source.strip() for candidate in extracted(text).candidates]


@pytest.mark.parametrize(
    "text",
    [
        CODE,
        f"```ocaml\n{CODE}\n```",
        f"```ml\n{CODE}\n```\n",
        f"```OCaml\n{CODE}\n```",
        f"```\n{CODE}\n```",
        f"~~~ocaml\n{CODE}\n~~~",
        f"  ```ocaml\n{CODE}\n  ```",
        f"Here is the solution:\n\n```ocaml\n{CODE}\n```\n\nIt adds the numbers.",
        f"```ocaml\n{CODE}",
        f"{CODE}\n```\nThis adds the numbers.",
        f"```ocaml\n{CODE}\n(* END *)\n```",
        f"```ocaml\n{CODE}\n```\n(* END *)",
        f"First an idea:\n```ocaml\nlet add a b = a\n```\nBetter:\n```ocaml\n{CODE}\n```\nUse it so:\n```ocaml\nadd 1 2\n```",
        f"```python\ndef add(a, b): pass\n```\n```ocaml\n{CODE}\n```",
        f"Run `dune build` first.\n```sh\ndune build\n```\n```ocaml\n{CODE}\n```",
        f"{CODE}\n(* END *)\nThis works because addition is built in.",
        f"{CODE}\r\n(* END *)\r\n",
        f"{STATEMENT}\n{CODE}",
        f"{CODE}<|im_end|>",
        f"{CODE}\n<|endoftext|>\n",
        f"{CODE}</answer>",
        f"<think>x</think>\n{CODE}\n</answer>\n",
        f"{CODE}\n</code>",
        f"{CODE}\n[/ANSWER]",
        CODE.replace(" ", "\u00a0"),
    ],
)
def test_the_code_is_found_in_any_surrounding_text(text: str) -> None:
    assert sources(text)[0] == CODE


@pytest.mark.parametrize(
    "text",
    [
        f"Here is the solution:\n\n{CODE}",
        f"{CODE}\n\nThis function adds both of its arguments.",
        f"Sure, here is the code you asked for.\n\n{CODE}\n\n**Explanation**\n\n- It adds the two numbers.",
        f"{CODE}\n\n## How it works\n\nIt adds.",
    ],
)
def test_a_candidate_leaves_out_prose_without_fences(text: str) -> None:
    assert any(source == CODE for source in sources(text))


@pytest.mark.parametrize(
    "text",
    [
        "\n" * 250_000 + "x",
        "<|a|>" * 50_000 + "x",
        "<|im_end|>" * 25_000,
        "```ocaml\n" * 25_000,
        "```\nlet add a b = 0\n" * 12_000,
        'let s = "' + "\n\nThis is it\n" * 8_000 + '"\n' + 'let a = ""\n' * 8_000,
        "let" + " " * 250_000 + "x",
        "{a" * 125_000,
        "(* " * 80_000,
    ],
    ids=["newlines", "tokens", "tokens at the end", "fences", "blocks", "prose", "spaces", "braces", "comments"],
)
def test_adversarial_texts_take_linear_time_and_memory(text: str) -> None:
    started = time.process_time()
    sources(text)
    assert time.process_time() - started < 3.0
    tracemalloc.start()
    sources(text[:60_000])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40_000_000


def test_code_with_capitals_is_not_taken_for_prose() -> None:
    text = "module M = struct\n\nlet x = 1\nend\n\nlet add a b =\n  match a with\n\n| 0 -> b\n\n| _ -> Some a b c"
    assert text in sources(text)
    assert len(sources(text)) == 2


def test_the_first_candidate_of_a_body_has_the_signature_in_front() -> None:
    found = extracted("  a + b")
    assert found.candidates[0].has_signature
    assert found.candidates[0].source == f"{SIGNATURE}\n  a + b"


def test_the_first_candidate_of_a_definition_has_no_signature() -> None:
    found = extracted(CODE)
    assert not found.candidates[0].has_signature


@pytest.mark.parametrize(
    "text", ["", "  \n", "(* END *)", "(* nothing *)", "```ocaml\n```", "<|im_end|>", f"(* END *)\n{CODE}"]
)
def test_a_text_without_code_has_no_candidate(text: str) -> None:
    assert sources(text) == []


@pytest.mark.parametrize(
    ("text", "has_end"),
    [
        (f"{CODE}\n(* END *)", True),
        (f"{CODE}\n(*END*)", True),
        (f"```ocaml\n{CODE}\n```\n(* END *)", True),
        (CODE, False),
        ('let add a b = "(* END *)"', False),
        ("let add a b = {|(* END *)|}", False),
        ("let add a b = a (* and (* END *) *)", False),
        ("let add a b = a (* END", False),
        ("let add a b = '\"' (* END *)", True),
        ("let add a' b' = a' (* END *)", True),
    ],
)
def test_only_a_real_end_marker_counts(text: str, has_end: bool) -> None:
    assert extracted(text).has_end_marker is has_end


def test_text_after_the_end_marker_is_dropped() -> None:
    assert sources(f'{CODE}\n(* END *)\nlet () = exit 0\nlet s = "')[0] == CODE


def test_no_break_spaces_in_strings_are_kept() -> None:
    assert sources('let add\u00a0= "a\u00a0b"')[0] == 'let add = "a\u00a0b"'


@pytest.mark.parametrize(
    ("program", "lines"),
    [
        ("", 0),
        ("let x = 1", 1),
        ("let x = 1\n\n\nlet y = 2\n", 2),
        ("(* a\n b\n c *)\nlet x = 1", 1),
        ("let x = 1 (* same line *)\n(* own line *)\n", 1),
        ('let s = "(* no comment\n*)"', 2),
        ("(* (* nested *)\n *)", 0),
        ("let c = '\"' (* x *)\n", 1),
        ("(* unclosed\nlet x = 1", 0),
    ],
)
def test_code_lines_exclude_comments_and_blank_lines(program: str, lines: int) -> None:
    assert num_code_lines(program) == lines


def test_a_comment_end_in_a_string_does_not_end_the_comment() -> None:
    assert without_comments('a (* "*)" *) b').split() == ["a", "b"]
    assert end_marker('(* "(* END *)" *) x (* END *)') == 20


@pytest.mark.parametrize(
    "text",
    [
        CODE,
        f"\n\n{CODE}",
        f"Here it is:\n\n```ocaml\n{CODE}\n```\n",
        f"Here it is:\r\n\r\n```ocaml\r\n{CODE}\r\n```\r\n",
        f"Here is the solution:\n\n{CODE}\nThis function adds both numbers.",
        f"{STATEMENT}\n{CODE}",
        f"```ocaml\n{STATEMENT}\n\n{CODE}\n```",
        f"<|im_start|>assistant\n{CODE}<|im_end|>",
        f"<think>\nlet add a b = a\n</think>\n\n{CODE}",
        f"A draft:\n```ocaml\nlet add a b = a\n```\nBetter:\n```ocaml\n\n{CODE}\n```\nUsage:\n```ocaml\nadd 1 2\n```",
        f"# let one = 1;;\nval one : int = 1\n# {CODE};;\n",
        f"<answer>\n```ocaml\n{CODE}\n```\n</answer>",
    ],
)
def test_program_lines_map_to_lines_of_the_text(text: str) -> None:
    lines = text.replace("\r\n", "\n").split("\n")
    found = extracted(text)
    for candidate in found.candidates:
        program = candidate.source.split("\n")
        [number] = [number for number, line in enumerate(program, start=1) if CODE in line]
        assert CODE in lines[candidate.first_line + number - 2]


def test_a_prepended_signature_is_on_the_lines_before_the_text() -> None:
    found = extracted("  a +\n  b")
    assert found.candidates[0].first_line == 0
    found = extracted("Sure:\n```\n  a +\n  b\n```", "let add\n  a b =")
    candidate = found.candidates[0]
    assert candidate.source.split("\n")[3].strip() == "a +"
    assert candidate.first_line + 4 - 1 == 3


def test_blocks_joined_to_one_program_keep_their_lines() -> None:
    text = "A helper:\n```ocaml\nlet plus = ( + )\n```\nThen:\n```ocaml\nlet add a b = plus a b\n```\n"
    joined = extracted(text).joined
    assert joined is not None and joined.first_line == 1
    lines = [line.strip() for line in joined.source.split("\n")]
    assert lines == ["", "", "let plus = ( + )", "", "", "", "let add a b = plus a b", ""]


def test_fences_in_literals_add_the_whole_text_as_a_candidate() -> None:
    text = f'let fence = "\n```\n"\n{CODE}'
    assert text in sources(text)


UNITS = [
    "(*", "'", '"', "{|", "{a|", "(*\"", "(**)", "```ocaml\n", "```\n", "```", "~~~\n", "<think>", "<think>\n", "</think>",
    "</think>\n", "<think></think>", "# ", "# let x\n", "utop # let x = 1\n", "- : int = 3\n", "This is it\n", "- This is it\n",
    "add ", "let add ", "let add = ", "<answer>\n", "<code>x</code>\n", "[OCAML]\n", "\\begin{code}\n", "<|a|>", "<|im_end|>x",
    "(* END *)", "A: ", "**A", "` ", "x' ", "\r\n", "\u2028", " \n", "1. ", "((((", "ignore x;", "raise (", "then ", "*)",
    "[think]", "[/think]", "</think>x", "<think>x", "x <|a|>b ", "<|channel|>analysis<|message|>", "<|channel|>final<|message|>",
    '"<s>" ', "assistantfinal", "```\n<s>\n", "<think>a<reason>",
    "[EOS] ", "a[EOS] ", "\u2581<", "<[a]>", "<|open|>think<|sep|>", "<|im_start|>think\n", "<think>a</think>b", "<filename>a.",
]  # fmt: skip


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("before", ["", "let add a b = ", "```ocaml\n", "<think>"])
def test_repeated_text_takes_linear_time(unit: str, before: str) -> None:
    def seconds(size: int) -> float:  # CPU seconds of this process
        text = before + unit * (size // len(unit))
        started = time.process_time()
        found = extracted(text)
        text_quality(found, found.candidates[0] if found.candidates else None, name="add")
        other_language(found.code, fence_language="", name="add")
        return time.process_time() - started

    small = min(seconds(4_096) for _ in range(3))
    # Linear time takes 8 times as long, quadratic time 64 times. A slow attempt may be due to a busy core.
    assert any(seconds(32_768) < 20 * small for _ in range(3))

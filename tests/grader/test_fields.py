import json
import math

import numpy as np
import pytest

from grader import fields
from grader.signature import split_prompt

SIGNATURE = "let f (x : int) : int ="


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1", "1"),
        (1, "1"),
        (1.0, "1"),
        (" 1\r\n", "1"),
        (1.5, "1.5"),
        (b"gcd", "gcd"),
        ("a/b\nc", "a/b c"),
        (np.int64(7), "7"),
    ],
)
def test_ids_of_different_types_become_the_same_text(value: object, text: str) -> None:
    assert fields.identifier(value) == text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "no id"),
        (math.nan, "NaN"),
        ("  ", "no id"),
        (True, "a boolean"),
        ([1, 2], "a list of 2"),
        ({"a": 1}, "an object"),
        (math.inf, "a number"),
        (b"\xff\xfe\xff", "binary data"),
    ],
)
def test_an_invalid_id_is_refused_with_its_kind(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fields.identifier(value)


def test_line_ends_and_spaces_of_other_systems_become_plain_outside_of_literals() -> None:
    code = 'let () =\r\n\u00a0 assert\u2028(f "a\u00a0b\u2028" = 1);\r\r\n  assert (f 2 = 2)\r'
    plain = 'let () =\n  assert\n(f "a\u00a0b\u2028" = 1);\n  assert (f 2 = 2)'
    assert fields.tests("\ufeff" + code) == plain
    assert fields.plain_text("a\rb\r\nc", "prompt") == "a\nb\nc"


@pytest.mark.parametrize(
    "value",
    [
        ["assert (f 1 = 1);", "let () = assert (f 2 = 2);;", None],
        '["assert (f 1 = 1);", "let () = assert (f 2 = 2);;"]',
        np.array(["assert (f 1 = 1)", "let () = assert (f 2 = 2)"], dtype=object),
    ],
)
def test_a_list_of_tests_becomes_one_text(value: object) -> None:
    assert fields.tests(value) == "assert (f 1 = 1)\n;;\nlet () = assert (f 2 = 2)"


def test_tests_in_a_fence_are_unwrapped() -> None:
    assert fields.tests("Tests:\n```ocaml\nassert (f 1 = 1)\n```\n") == "assert (f 1 = 1)"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([{"input": "1", "output": "2"}], r"a list of 1 objects \(keys input, output\)"),
        ('{"inputs": ["1"], "outputs": ["2"]}', r"an object \(keys inputs, outputs\)"),
        (3, r"a number \(3\)"),
        (["f 1 = 1"], "hold no assert"),
        ([1, 2], "a list of 2, the first a number"),
    ],
)
def test_invalid_tests_are_refused_with_their_kind(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fields.tests(value)


USER = {"role": "user", "content": SIGNATURE}


@pytest.mark.parametrize(
    "value",
    [
        SIGNATURE,
        [USER],
        [{"role": "system", "content": "You write OCaml."}, USER],
        json.dumps([USER]),
        {"messages": [USER]},
        {"role": ["user"], "content": [SIGNATURE]},
        [{"from": "human", "value": SIGNATURE}],
        [{"role": "user", "content": [{"type": "text", "text": SIGNATURE}]}],
        np.array([USER], dtype=object),
        SIGNATURE.encode(),
    ],
)
def test_a_prompt_may_be_a_conversation(value: object) -> None:
    assert fields.prompt_cell(value) == (SIGNATURE, None)


def test_the_answer_of_a_conversation_is_kept() -> None:
    chat = [USER, {"role": "assistant", "content": "let f x =\r\n  x"}]
    assert fields.prompt_cell(chat).answer == fields.answer(chat, "completion") == "let f x =\n  x"
    assert fields.answer("[1; 2]", "completion") == "[1; 2]"
    assert fields.answer("[1, 2]", "completion") == "[1, 2]"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([USER, {"role": "assistant", "content": "x"}, USER], "2 user turns"),
        ([{"role": "system", "content": "x"}], "0 user turns"),
        ({"a": 1}, "an object"),
        ([1], "a list of 1"),
        (7, "a number"),
        ([{"role": "user", "content": [{"type": "image"}]}], "not text"),
    ],
)
def test_an_invalid_prompt_is_refused_with_its_kind(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fields.prompt_cell(value)


def test_a_conversation_without_an_answer_is_no_completion() -> None:
    with pytest.raises(ValueError, match="ends with the user's turn"):
        fields.answer([USER], "completion")


@pytest.mark.parametrize(
    "body",
    [
        'failwith "TODO"',
        '(failwith "not implemented")',
        'begin failwith "TODO" end',
        "(* your code here *)",
        '(* TODO *)\n  failwith "x" ;;',
        "assert false",
        'raise (Failure "todo")',
        "raise Todo",
        "...",
        "\u2026",
        "??",
        "_",
        "<your code>",
        "[YOUR CODE HERE]",
        "# your code here",
        "TODO",
        "()",
        "[]",
        "0",
        'ignore x; failwith "TODO"',
        "let _ = x in assert false",
        'let result = failwith "todo" in\n  result',
        "(* your code here *)\n;;",
        "(* BEGIN SOLUTION *)\n  (* END SOLUTION *)",
        "TODO: implement",
        '"your code here"',
        "exit 1",
    ],
)
@pytest.mark.parametrize("gap", [" ", "\n  "])
def test_a_placeholder_body_is_removed(body: str, gap: str) -> None:
    assert split_prompt(f"(** F. *)\n{SIGNATURE}{gap}{body}\n") == ("(** F. *)", SIGNATURE)


def test_comments_about_the_task_in_a_placeholder_body_are_kept() -> None:
    note = "(** Twice its argument.\n   >>> f 2\n   4 *)"
    assert split_prompt(f'{SIGNATURE}\n  {note}\n  failwith "TODO"') == (note, SIGNATURE)


@pytest.mark.parametrize("body", ["function", "match x with", "if x = 0 then 1 else", "let rec go acc ="])
def test_a_body_to_continue_is_kept(body: str) -> None:
    assert split_prompt(f"(** F. *)\n{SIGNATURE}\n  {body}")[1].endswith(body)


def test_placeholders_of_several_definitions_are_removed() -> None:
    prompt = 'let rec even n = failwith "TODO"\nand odd n = failwith "TODO"'
    assert split_prompt(prompt)[1].split() == ["let", "rec", "even", "n", "=", "and", "odd", "n", "="]


@pytest.mark.parametrize(
    ("prompt", "statement"),
    [
        ("Complete the function.\n```ocaml\n(** F. *)\n{s}\n```", "(* Complete the function. *)\n(** F. *)"),
        ("```ocaml\n(** F. *)\n{s}", "(** F. *)"),
        ("~~~\n(** F. *)\n{s}\n~~~\nUse recursion (*).", "(* Use recursion ( * ). *)\n(** F. *)"),
        ("(** F. *)\n```ml\n{s} ...\n```", "(** F. *)"),
        ("```ocaml\ntype t = A\n```\nThen:\n```ocaml\n{s}\n```", "type t = A\n(* Then: *)"),
        (
            "```ocaml\n{s}\n```\nUse:\n```ocaml\nlet () = assert (f 1 = 1)\n```",
            "(* Use: *)\n(* let () = assert (f 1 = 1) *)",
        ),
        ("(** Like\n```\nlet g = 1\n```\n*)\n{s}", "(** Like\n```\nlet g = 1\n```\n*)"),
        ("Example:\n```\n>>> f 1\n```\n{s}", "(* Example: *)\n(* >>> f 1 *)"),
    ],
)
def test_markdown_around_a_signature_is_unwrapped(prompt: str, statement: str) -> None:
    assert split_prompt(prompt.replace("{s}", SIGNATURE)) == (statement, SIGNATURE)

import pytest

from grader.extract import extract
from grader.lexical import num_code_lines
from grader.quality_flags import TextQuality, text_quality

SIGNATURE = "let f (x : int) : int ="
STATEMENT = '(** Do it, "quickly.\n * >>> f 1\n * 2\n *)'
PROSE = "This is a long explanation of how it works and why, with many words in it, and for no good reason at all.\n"


def quality_of(text: str) -> TextQuality:
    found = extract(text, signature=SIGNATURE, name="f", statement=STATEMENT)
    return text_quality(found, found.candidates[0] if found.candidates else None, name="f")


@pytest.mark.parametrize(
    "text",
    [
        "let f x = x",
        "  x + 1",
        'let f x = if x < 0 then failwith "negative" else x',
        '  if x < 0 then invalid_arg "f" else x',
        "let f x = match x with 0 -> raise Not_found | n -> n",
        'let f = function [] -> failwith "empty" | x :: _ -> x',
        'let f x = try int_of_string x with Failure _ -> failwith "no number"',
        "let f message = failwith message",
        "let f x = raise (Found x)",
        "(* TODO: make it faster *)\nlet rec f x = if x = 0 then 0 else f (x - 1)",
        "let f x = x + 1 (* no placeholder *)",
        "let todo = 3\nlet f x = x * todo",
        'let fail () = failwith "no"\nlet f x = if x > 0 then x else fail ()',
        "Here is the solution:\n```ocaml\nlet f x = x\n```\n(* END *)",
        f"{STATEMENT}\nlet f x = x",
        f"```ocaml\n{STATEMENT}\nlet f x = x\n```",
        "(** Doubles [x], which is all that was asked for, and nothing more than that. *)\nlet f x =\n  x + x",
        f"<think>\n{PROSE * 9}</think>\nlet f x = x",
        "\n".join(f"let f{i} x = x * {i} + {i * 7 % 13}" for i in range(40)) + "\nlet f x = x",
        "let f = function\n" + "\n".join(f"  | {i} -> {i * i}" for i in range(60)) + "\n  | n -> n",
    ],
)
def test_an_honest_answer_has_no_flag(text: str) -> None:
    assert quality_of(text).quality_flags == ()


@pytest.mark.parametrize(
    "text",
    [
        'let f x = failwith "todo"',
        '  failwith "todo"',
        "let f _ = raise Exit",
        "let f x = assert false",
        "let f x = (assert false)",
        'let f x = begin failwith "later" end',
        'let f x = ignore x; failwith "Not implemented"',
        'let f x =\n  let _ = x in\n  failwith "later"',
        'let f x = match x with _ -> failwith ""',
        'let f x = if x > 0 then failwith "a" else failwith "b"',
        'let f = fun x -> raise (Failure "x")',
        'let f ?(y = 1) x = invalid_arg "x"',
        'let f x = failwith "a"\nlet () = print_int (f 1)',
        "let f (x : int) : int = raise Not_found;;",
        "let f x =\n  (* your code here *)\n  0",
        "let f x = (* TODO *) ()",
        "let f x = x (* not implemented yet *)",
    ],
)
def test_a_program_that_only_raises_is_a_stub(text: str) -> None:
    assert quality_of(text).quality_flags == ("stub",)


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("x " * 400, "repetitive"),
        ("let f x = x + 1 + 2 + 3\n" * 60, "repetitive"),
        ("let f x =\n  let a = 1 in\n  let b = 2 in\n" * 12, "repetitive"),
        ("let f x = x\n" + "(* and so on *)\n" * 200, "repetitive"),
        ("a period of a length that no window falls into twice; " * 30, "repetitive"),
        ("```ocaml\n```\n" * 3, "fence_spam"),
        (f"{PROSE * 2}\n```ocaml\nlet f x = x\n```", "mostly_prose"),
        (f"{PROSE * 2}", "mostly_prose"),
        (f"let f x = x\n{PROSE * 2}", "mostly_prose"),
        (f"(* {PROSE * 5}*)\nlet f x = x", "mostly_prose"),
    ],
)
def test_low_quality_text_is_flagged(text: str, flag: str) -> None:
    assert flag in quality_of(text).quality_flags


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("let f x = x", 0),
        ("```ocaml\nlet f x = x\n```", 1),
        ("```ocaml\nlet f x = x\n", 1),
        ("let f x = x\n```\n", 1),
        ("```ocaml\nlet f x = x\n```\n```ocaml\nf 1\n```\n", 2),
    ],
)
def test_fenced_blocks_are_counted(text: str, blocks: int) -> None:
    assert quality_of(text).num_code_blocks == blocks


@pytest.mark.parametrize(
    ("text", "has_prose"),
    [
        ("let f x = x", False),
        ("let f x = x\n(* END *)\n", False),
        ("let f x = x<|im_end|>", False),
        ("let f x = x\nThis function returns its argument.", True),
        ("let f x = x\n\nThis returns its argument.\n(* END *)", True),
        ("let f x = x\n(* END *)\nThis returns its argument.", True),
        ("```ocaml\nlet f x = x\n```", False),
        ("```ocaml\nlet f x = x\n```\n(* END *)\n<|im_end|>", False),
        ("```ocaml\nlet f x = x\n```\nThat is all.", False),
        ("```ocaml\nlet f x = x\n```\nThis function returns its argument, as it was asked to.", True),
        ("```ocaml\nlet f x = x\n```\nThis function returns its argument, as asked:\n```ocaml\nf 1\n```", False),
        ("This function returns its argument, as it was asked to.\n```ocaml\nlet f x = x\n```", False),
    ],
)
def test_prose_after_the_code_is_detected(text: str, has_prose: bool) -> None:
    assert quality_of(text).has_trailing_prose is has_prose


def test_code_lines_are_those_of_the_program() -> None:
    text = 'Sure:\n```ocaml\n(* a *)\n\nlet s = "a\n b"\nlet f x = x (* b *)\n```\n'
    found = extract(text, signature=SIGNATURE, name="f", statement=STATEMENT)
    assert quality_of(text).num_code_lines == num_code_lines(found.candidates[0].source) == 3


def test_a_completion_without_code_has_flags_too() -> None:
    assert quality_of("") == TextQuality(
        quality_flags=(), num_code_blocks=0, has_trailing_prose=False, num_code_lines=0
    )
    found = extract("\0" * 500, signature="", name="", statement="")
    assert text_quality(found, None, name="").quality_flags == ("repetitive", "mostly_prose")


@pytest.mark.parametrize(
    ("thought", "flag"), [(PROSE * 8, "repetitive"), (PROSE * 2, "mostly_prose"), ("```\n" * 8, "fence_spam")]
)
def test_the_tags_of_a_thought_after_the_code_hide_nothing_from_the_flags(thought: str, flag: str) -> None:
    assert quality_of(f"<think>{thought}</think>\nlet f x = x * 2 + x").quality_flags == ()
    for text in (f"let f x = x * 2 + x\n<think>{thought}</think>", f"let f x =\n<think>{thought}</think>\n x * 2 + x"):
        found = quality_of(text)
        assert flag in found.quality_flags
        assert found.has_trailing_prose

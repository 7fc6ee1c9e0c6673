import json
from pathlib import Path

import pytest

from grader.signature import defined_name, given_definitions, split_prompt

REAL = Path(__file__).parents[3] / "shared" / "data" / "ocaml_problems.jsonl"


@pytest.mark.parametrize(
    ("prompt", "statement", "signature"),
    [
        ("(** Add. *)\nlet add a b =", "(** Add. *)", "let add a b ="),
        ("let add a b =", "", "let add a b ="),
        ("(** Add. *) let add a b =", "(** Add. *)", "let add a b ="),
        ("(** Add. *)\nlet add a b", "(** Add. *)", "let add a b ="),
        (
            "(** Add. *)\nlet rec add\n    (a : int)\n    (b : int) : int =\n",
            "(** Add. *)",
            "let rec add\n    (a : int)\n    (b : int) : int =",
        ),
        ('(** Say "hi. *)\nlet hi =', '(** Say "hi. *)', "let hi ="),
        ("(** Let x:\nlet x = 1\n*)\nlet f y =", "(** Let x:\nlet x = 1\n*)", "let f y ="),
        ("type t = A\n(** F. *)\nlet f (x : t) : int =", "type t = A\n(** F. *)", "let f (x : t) : int ="),
        ("let helper x = x\nlet f x =", "let helper x = x", "let f x ="),
        ("(** Don't. (* stray *)\nlet f x =", "(** Don't. (* stray *)", "let f x ="),
        ("(** Add. *)\nlet\u00a0add\u00a0a b =", "(** Add. *)", "let add a b ="),
        ("(** F. *)\r\nlet f x =\r\n", "(** F. *)", "let f x ="),
        ("(** F. *)\nlet f ?(x = 1) y", "(** F. *)", "let f ?(x = 1) y ="),
    ],
)
def test_a_prompt_is_split_at_its_last_definition(prompt: str, statement: str, signature: str) -> None:
    assert split_prompt(prompt) == (statement, signature)


@pytest.mark.parametrize("prompt", ["", "Write a function.", "(** let f x = *)", "type t = A"])
def test_a_prompt_without_a_signature_is_refused(prompt: str) -> None:
    with pytest.raises(ValueError, match="no signature"):
        split_prompt(prompt)


@pytest.mark.parametrize(
    ("signature", "name"),
    [
        ("let add a b =", "add"),
        ("let rec add' (a : int) =", "add'"),
        ("let ( +! ) a b =", "+!"),
        ("let (|>>) a b =", "|>>"),
        ("let rec ( mod ) a b =", "mod"),
        ("let f : int -> int =", "f"),
        ("let _unused =", "_unused"),
        ("let (a, b) =", ""),
    ],
)
def test_defined_name_returns_the_name_that_a_signature_binds(signature: str, name: str) -> None:
    assert defined_name(signature) == name


def test_definitions_outside_comments_are_found() -> None:
    statement = 'type t = A (* first *) | B\n(** Say "it. *)\nexception E'
    assert given_definitions(statement).split() == ["type", "t", "=", "A", "|", "B", "exception", "E"]
    assert given_definitions("(** Nothing. *)") == ""


def test_every_real_prompt_has_a_statement_and_a_signature() -> None:
    if not REAL.exists():
        pytest.skip(f"{REAL} is not here")
    for line in REAL.read_text().splitlines():
        prompt = json.loads(line)["prompt"]
        statement, signature = split_prompt(prompt)
        assert statement.startswith("(**") and statement.rstrip().endswith("*)"), prompt
        assert signature.startswith("let ") and signature.endswith("=") and "\n" not in signature, prompt
        assert defined_name(signature)
        assert given_definitions(statement) == ""

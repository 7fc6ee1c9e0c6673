# ruff: noqa: E501  (programs, one per entry)
"""Programs in other languages earn nothing, and a mistake in OCaml is not taken for another language."""

import pytest

from cluster.types import FinishReason, Verdict
from grader.grade import Grader
from grader.languages import other_language
from grader.profiles import PROFILES
from grader.reward import score

from .problems import problem

GCD = problem(
    "(** Greatest common divisor. *)\nlet rec gcd (a : int) (b : int) : int =",
    "let () = assert (gcd 12 18 = 6); assert (gcd 7 0 = 7)",
)
OTHERS: dict[str, str] = {
    "python_loop": "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a",
    "python": "def gcd(a, b):\n    if b == 0:\n        return a\n    return gcd(b, a % b)",
    "python_conditional": "def gcd(a, b):\n    return a if b == 0 else gcd(b, a % b)",
    "python_annotated": "def gcd(a: int, b: int) -> int:\n    return math.gcd(a, b)",
    "python_lambda": "gcd = lambda a, b: a if b == 0 else gcd(b, a % b)",
    "python_import": "import math\nprint(math.gcd(12, 18))",
    "python_from_import": "from math import gcd",
    "python_body": "    return a + b",
    "python_body_loop": "    while b:\n        a, b = b, a % b\n    return a",
    "python_return": "return gcd(b, a % b)",
    "haskell": "gcd :: Int -> Int -> Int\ngcd a 0 = a\ngcd a b = gcd b (a `mod` b)",
    "haskell_equations": "gcd a 0 = a\ngcd a b = gcd b (mod a b)",
    "haskell_backquotes": "gcd' a b = if b == 0 then a else gcd' b (a `rem` b)",
    "haskell_guards": "gcd a b\n  | b == 0 = a\n  | otherwise = gcd b (a `mod` b)",
    "haskell_module": "module Main where\nmain = print (gcd 12 18)",
    "fsharp_main": 'let rec gcd a b =\n    match b with\n    | 0 -> a\n    | _ -> gcd b (a % b)\n\n[<EntryPoint>]\nlet main argv =\n    printfn "%d" (gcd 12 18)\n    0',
    "fsharp_system": 'open System\nlet rec gcd a b = if b = 0 then a else gcd b (a % b)\nprintfn "%d" (gcd 12 18)',
    "fsharp_mutable": "let gcd (a: int) (b: int) : int =\n    let mutable x = a\n    let mutable y = b\n    while y <> 0 do\n        let t = y\n        y <- x % y\n        x <- t\n    x",
    "sml": "fun gcd (a, 0) = a\n  | gcd (a, b) = gcd (b, a mod b)",
    "sml_curried": "fun gcd a b = if b = 0 then a else gcd b (a mod b)",
    "sml_val": "val rec gcd = fn a => fn b => if b = 0 then a else gcd b (a mod b)",
    "rust": "fn gcd(a: i64, b: i64) -> i64 {\n    if b == 0 { a } else { gcd(b, a % b) }\n}",
    "javascript": "function gcd(a, b) {\n  return b === 0 ? a : gcd(b, a % b);\n}",
    "javascript_const": "const gcd = (a, b) => b === 0 ? a : gcd(b, a % b);",
    "javascript_let": "let gcd = (a, b) => b === 0 ? a : gcd(b, a % b);",
    "javascript_block": "let gcd = (a, b) => { while (b) { [a, b] = [b, a % b]; } return a; }",
    "javascript_arrow": "let gcd = (a, b) => gcd(b, a % b);",
    "reason": "let rec gcd = (a, b) => b == 0 ? a : gcd(b, a mod b);",
    "c": "int gcd(int a, int b) {\n    return b == 0 ? a : gcd(b, a % b);\n}",
    "c_include": "#include <stdio.h>\nint gcd(int a, int b) { while (b) { int t = b; b = a % b; a = t; } return a; }",
    "java": "public static int gcd(int a, int b) {\n  return b == 0 ? a : gcd(b, a % b);\n}",
    "go": "func gcd(a, b int) int {\n\tfor b != 0 {\n\t\ta, b = b, a%b\n\t}\n\treturn a\n}",
    "scala": "def gcd(a: Int, b: Int): Int = if (b == 0) a else gcd(b, a % b)",
    "kotlin": "fun gcd(a: Int, b: Int): Int = if (b == 0) a else gcd(b, a % b)",
    "swift": "func gcd(_ a: Int, _ b: Int) -> Int { return b == 0 ? a : gcd(b, a % b) }",
    "ruby": "def gcd(a, b)\n  b == 0 ? a : gcd(b, a % b)\nend",
    "ruby_zero": "def gcd(a, b)\n  b.zero? ? a : gcd(b, a % b)\nend",
    "elixir": "def gcd(a, 0), do: a\ndef gcd(a, b), do: gcd(b, rem(a, b))",
    "scheme": "(define (gcd a b)\n  (if (= b 0) a (gcd b (modulo a b))))",
    "common_lisp": "(defun gcd (a b) (if (zerop b) a (gcd b (mod a b))))",
    "clojure": "(defn gcd [a b] (if (zero? b) a (recur b (mod a b))))",
    "erlang": "gcd(A, 0) -> A;\ngcd(A, B) -> gcd(B, A rem B).",
    "prolog": "gcd(A, 0, A).\ngcd(A, B, G) :- C is A mod B, gcd(B, C, G).",
    "lua": "function gcd(a, b)\n  if b == 0 then return a else return gcd(b, a % b) end\nend",
    "lua_local": "local function gcd(a, b)\n  return b == 0 and a or gcd(b, a % b)\nend",
    "perl": "sub gcd { my ($a, $b) = @_; return $b ? gcd($b, $a % $b) : $a; }",
    "php": "<?php function gcd($a, $b) { return $b ? gcd($b, $a % $b) : $a; }",
    "bash": "gcd() { if [ $2 -eq 0 ]; then echo $1; else gcd $2 $(($1 % $2)); fi; }",
    "julia": "function gcd(a, b)\n    b == 0 ? a : gcd(b, a % b)\nend",
    "julia_short": "gcd(a, b) = b == 0 ? a : gcd(b, a % b)",
    "equation": "gcd(a, b) = gcd(b, a mod b)",
    "equation_curried": "gcd a b = gcd b (a mod b)",
    "coq": "Fixpoint gcd (a b : nat) : nat := match b with 0 => a | S _ => gcd b (a mod b) end.",
    "coq_definition": "Definition gcd a b := a.",
    "lean": "def gcd (a b : Nat) : Nat := if b = 0 then a else gcd b (a % b)",
    "agda": "gcd : Nat -> Nat -> Nat\ngcd a zero = a",
    "elm": "gcd : Int -> Int -> Int\ngcd a b =\n    if b == 0 then a else gcd b (modBy b a)",
    "sql": "SELECT gcd(12, 18) FROM dual",
    "r": "gcd <- function(a, b) if (b == 0) a else gcd(b, a %% b)",
    "pascal": "function gcd(a, b: integer): integer;\nbegin\n  if b = 0 then gcd := a else gcd := gcd(b, a mod b)\nend;",
    "refusal": "Sorry, I cannot help you",
    "prose": "The answer is six",
    "prose_in_lower_case": "the answer is simple recursion",
    "advice": "I think you should use recursion here",
    "pseudocode": "if b = 0 return a\nelse return gcd(b, a mod b)",
    "pseudocode_in_one_line": "if b = 0 then return a else return gcd(b, a mod b)",
    "json": '{"code": "let rec gcd a b = a"}',
    "matlab": "function g = gcd(a, b)\n  while b\n    [a, b] = deal(b, mod(a, b));\n  end\n  g = a;\nend",
    "zig": "fn gcd(a: i32, b: i32) i32 { return if (b == 0) a else gcd(b, a % b); }",
    "nim": "proc gcd(a, b: int): int =\n  if b == 0: a else: gcd(b, a mod b)",
    "dart": "int gcd(int a, int b) => b == 0 ? a : gcd(b, a % b);",
    "csharp": "int Gcd(int a, int b) => b == 0 ? a : Gcd(b, a % b);",
    "typescript": "function gcd(a: number, b: number): number { return b === 0 ? a : gcd(b, a % b); }",
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("form", ["{}", "```python\n{}\n```", "Here it is:\n\n```\n{}\n```", "{}\n(* END *)"])
def test_a_program_of_another_language_earns_nothing_in_any_profile(grader: Grader, name: str, form: str) -> None:
    facts = grader.grade(GCD, form.format(OTHERS[name]), FinishReason.STOP).facts
    assert facts.verdict in (Verdict.NO_CODE, Verdict.SYNTAX_ERROR), facts.diagnostics
    assert {score(facts, profile).reward for profile in PROFILES.values()} == {0.0}


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("let rec gcd a b = if b = 0 then a else gcd b (a mod b", Verdict.SYNTAX_ERROR),
        ("let rec gcd a b = match b with 0 => a | _ -> gcd b (a mod b)", Verdict.SYNTAX_ERROR),
        ("let rec gcd = fun (a, b) => gcd (b, a)", Verdict.SYNTAX_ERROR),
        ("let rec gcd a b = if b == 0 then a else gcd b (a % b)", Verdict.TYPE_ERROR),
        ('let rec gcd a b = (* def f(x): return x *) a + "function f(x) { return x; }"', Verdict.TYPE_ERROR),
        ("let return x = x ^ 1\nlet gcd a b =\n  return a", Verdict.TYPE_ERROR),
        ("  if b = 0 then a else gcd b (a modulo b)", Verdict.TYPE_ERROR),
        ("class c = object val x = 1 method x = x ^ 1 end", Verdict.TYPE_ERROR),
        ("type t = {\n  a : int\n}\nlet gcd a b =\n  f (a) {\n  a = b ^ 1\n}", Verdict.TYPE_ERROR),
    ],
)
def test_a_mistake_in_ocaml_stays_a_syntax_or_type_error(grader: Grader, text: str, verdict: Verdict) -> None:
    assert grader.grade(GCD, text, FinishReason.STOP).facts.verdict is verdict


def test_a_program_that_ocaml_accepts_is_ocaml_under_any_fence_language(grader: Grader) -> None:
    for tag in ("python", "fsharp", "haskell", "sml", "rust"):
        text = f"```{tag}\nlet rec gcd a b = if b = 0 then a else gcd b (a mod b)\n```"
        assert grader.grade(GCD, text, FinishReason.STOP).facts.verdict is Verdict.PASSED
    assert other_language("let f x = x +", fence_language="python", name="f") == "python"


@pytest.mark.parametrize(
    "comment",
    [
        '(* an "unclosed string *)',
        "(* it is {|quoted *)",
        "(* never closed",
        '(** Greatest "common *)',
        "(* '\"' \" *)",
    ],
)
def test_a_comment_that_ocaml_refuses_is_a_syntax_error(grader: Grader, comment: str) -> None:
    code = "let rec gcd a b = if b = 0 then a else gcd b (a mod b)"
    for text in (f"{comment}\n{code}", f"```ocaml\n{comment}\n{code}\n```", f"{code}\n{comment}\nlet x = 1"):
        assert grader.grade(GCD, text, FinishReason.STOP).facts.verdict is Verdict.SYNTAX_ERROR
    for fine in (
        "(* it's fine *)",
        '(* a "string" *)',
        "(* don't, 'a' or '\"' *)",
        "(* {|quoted|} *)",
        "(* (* nested *) *)",
    ):
        assert grader.grade(GCD, f"{fine}\n{code}", FinishReason.STOP).facts.verdict is Verdict.PASSED

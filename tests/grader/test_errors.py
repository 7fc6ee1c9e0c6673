"""Number of type errors: each independent error counts once, and its consequences do not count."""

import random

import pytest

from cluster.types import Facts, FinishReason, Verdict
from grader.grade import Grader

from .problems import problem

# name -> (number of independent errors, program)
ILL_TYPED: dict[str, tuple[int, str]] = {
    "two operands in one expression": (2, 'let f x = (x + "a") + (1 ^ "b")'),
    "five wrong functions": (
        5,
        'let a x = x + "a"\nlet b x = x ^ 1\nlet c x = List.length 3\nlet d = if 1 then 2 else 3\nlet e = [1; "a"]',
    ),
    "three in the lets of one body": (
        3,
        'let f x =\n  let a = x + "one" in\n  let b = String.length 5 in\n  let c = not 3 in\n  if c then a + b else 0',
    ),
    "a wrong result annotation and its users": (
        1,
        "let f (x : int) : string = x + 1\nlet a = f 1 + 2\nlet b = f 2 * 3",
    ),
    "a wrong annotation over a whole match": (
        1,
        "let rec sum (l : int list) : string = match l with [] -> 0 | x :: xs -> x + sum xs",
    ),
    "a wrong parameter annotation used twice": (1, "let f (x : string) = x + 1 + x * 2"),
    "a float operator between two ints": (1, "let f (a : int) (b : int) = a +. b"),
    "a helper that contradicts all its uses": (
        1,
        "let is_even n = n mod 2\nlet f x = if is_even x then 1 else 2\nlet g x = is_even x && true\nlet h x = not (is_even x)",
    ),
    "a wrong helper and a use that disagrees with its repair": (
        1,
        "let total l = List.fold_left ( ^ ) 0 l\nlet mean l = total l / List.length l",
    ),
    "a wrong use of a sound helper": (1, 'let double x = x * 2\nlet f x = double "a"\nlet g x = double x + 1'),
    "a first branch that all the others disagree with": (
        1,
        'let f a = match a with 0 -> 0 | 1 -> "a" | 2 -> "two" | _ -> "many"',
    ),
    "an if whose result is used": (1, 'let f x = if x then 1 else "a"\nlet g = f true + 1'),
    "a scrutinee that no pattern fits": (1, "let f l = match List.length l with [] -> 0 | x :: xs -> x"),
    "a first use that determines the wrong type": (1, 'let f x = ignore (x ^ "a"); ignore (x + 1); x * 2'),
    "a wrong base case of a recursion": (1, "let rec f n = if n < 1.5 then n else f (n - 1) + f (n - 2)"),
    "a wrong initial value of a reference": (
        1,
        'let f n =\n  let i = ref "1" in\n  while !i < n do i := !i + 1 done;\n  !i * 2',
    ),
    "one unbound name used three times": (1, 'let f x = foo x + foo 1\nlet g y = foo y ^ "a"'),
    "two unbound names": (2, 'let f x = foo x + 1\nlet g y = bar y ^ "a"'),
    "an unbound name of a module": (1, "let f x = List.lenght x + 1\nlet g x = List.lenght x * 2"),
    "several names of an unknown module": (1, "let f x = Foo.a x + Foo.b 1\nlet g (x : Foo.t) = x"),
    "an unknown module opened, and unbound names after it": (1, "open Core\nlet f x = Hashtblx.find x\nlet g = bar 1"),
    "an unknown module opened, and another error": (2, 'open Core\nlet f x = bar x\nlet g x = x + "a"'),
    "a functor applied to an unknown module": (
        1,
        "module M = Map.Make (Foo)\nlet f = M.add 1 2 M.empty\nlet g (m : int M.t) = M.find 1 m",
    ),
    "an unknown type in a declaration": (
        1,
        'type t = { a : int; b : strin }\nlet f r = r.a + String.length r.b\nlet g = { a = 1; b = "x" }',
    ),
    "unknown types in annotations": (2, 'let f (x : foo) = x + 1\nlet g (y : bar) = y ^ "a"'),
    "an unknown constructor and a wrong literal": (2, 'let f x = match x with Some y -> y + "1" | Nope -> 2'),
    "an unknown field": (1, "type r = { a : int }\nlet f x = x.a + x.c\nlet g = { a = 1 }"),
    "too many arguments": (1, "let f a b = a + b\nlet g = f 1 2 3"),
    "a missing argument": (1, "let f x = let rec go n acc = if n = 0 then acc else go (n - 1) in go x []"),
    "swapped arguments": (1, "let f l = List.map l (fun x -> x + 1)"),
    "a wrong label": (1, "let f ~x y = x + y\nlet g = f ~z:1 2"),
    "a constructor without its argument": (
        1,
        "type shape = Circle of float | Square of float\nlet area = function Circle r -> r *. r | Square -> 1.0",
    ),
    "a wrong argument of a format": (1, 'let f () = Printf.printf "%d" "a"'),
    "a recursive value that cannot be built": (1, "let rec x = x + 1"),
    "a module that does not fit its signature": (
        1,
        'module M : sig val x : int end = struct let x = "a" end\nlet y = M.x + 1',
    ),
    "two errors inside a module": (2, 'module M = struct let f x = x + "a" let g x = x ^ 1 end\nlet h = M.f 1'),
    "an error in a class": (1, 'class c = object method x = 1 + "a" end\nlet o = new c'),
    "a type defined twice": (1, "type t = int\ntype t = string"),
    "a weak type that a failed attempt must not determine": (
        1,
        "let memo = Hashtbl.create 97\nlet rec fib n = if n < 1.5 then n else match Hashtbl.find_opt memo n with Some v -> v\n"
        "  | None -> let v = fib (n - 1) + fib (n - 2) in Hashtbl.add memo n v; v",
    ),
    "an unchecked function that is replaced by the checked one": (
        1,
        'let f s = String.unsafe_get s 0\nlet g = 1 + "a"',
    ),
}


def facts_of(grader: Grader, program: str) -> Facts:
    # Without a name to define, the program is checked on its own.
    made = problem("(** Anything. *)\nlet () =", "let () = assert true", "errors")
    return grader.grade(made, program, FinishReason.STOP).facts


@pytest.mark.parametrize("name", ILL_TYPED)
def test_independent_errors_are_counted_once_each(grader: Grader, name: str) -> None:
    count, program = ILL_TYPED[name]
    facts = facts_of(grader, program)
    assert facts.verdict is Verdict.TYPE_ERROR
    assert facts.type_errors == count, [(error.line, error.message) for error in facts.errors]


def test_each_error_has_its_line_and_the_compilers_message(grader: Grader) -> None:
    facts = facts_of(grader, 'let a x =\n  x + "a"\n\nlet b =\n  List.lenght [1]\n')
    assert [error.line for error in facts.errors] == [2, 5]
    first, second = (error.message for error in facts.errors)
    assert first.endswith("has type string but an expression was expected of type int")
    assert second.startswith("Unbound value List.lenght")


def test_a_huge_type_in_a_message_is_truncated(grader: Grader) -> None:
    methods = " ".join(f"method m{index} = {index}" for index in range(300))
    facts = facts_of(grader, f"let o = object {methods} end\nlet f = 1 + o")
    assert facts.type_errors == 1
    assert all(len(error.message) < 3000 for error in facts.errors)


def test_the_list_of_errors_is_bounded(grader: Grader) -> None:
    facts = facts_of(grader, "\n".join(f'let f{index} x = x + "a"' for index in range(500)))
    assert (facts.verdict, facts.type_errors) == (Verdict.TYPE_ERROR, 50)


def test_the_errors_of_a_program_do_not_depend_on_earlier_programs(grader: Grader) -> None:
    programs = [program for _, program in ILL_TYPED.values()]
    before = {program: facts_of(grader, program).errors for program in programs}
    random.Random(1).shuffle(programs)
    assert {program: facts_of(grader, program).errors for program in programs} == before

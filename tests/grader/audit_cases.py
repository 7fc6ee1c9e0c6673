"""Solvable and unsolvable problems, each named after its special property."""

from cluster.types import Problem

from .problems import problem


def one_line(prompt: str, asserts: str) -> Problem:
    return problem(prompt, f"let () = {asserts}")


SHAPES = (
    "(** The area of a shape.\n * type shape = Circle of float | Square of float\n *)\nlet area (s : shape) : float ="
)
INT = "(** f *)\nlet f (x : int) : int ="
FLOAT = "(** f *)\nlet f (x : float) : float ="
ANY = "(** f *)\nlet f x ="

SOLVABLE = {
    "a type that the statement describes": one_line(SHAPES, "assert (area (Circle 1.0) > 3.)"),
    "a type in a sentence": one_line(
        "(** The area. type shape = Circle of float *)\nlet area (s : shape) : float =",
        "assert (area (Circle 1.) > 3.)",
    ),
    "a type that could be an abbreviation": one_line(
        "(** The age. *)\nlet age (s : years) : int =", "assert (age 3 = 3)"
    ),
    "a signature without rec": one_line("(** n! *)\nlet fact (n : int) : int =", "assert (fact 3 = 6)"),
    "an exception that the statement names": one_line(
        "(** Raises Negative. *)\nlet f (n : int) : int =", "assert (try ignore (f (-1)); false with Negative -> true)"
    ),
    "an exception with an argument": one_line(
        "(** Raises Negative n. *)\nlet f (n : int) : int =",
        "assert (match f (-1) with exception Negative k -> k = -1 | _ -> false)",
    ),
    "an exception as a value": problem(
        "(** Fails with Empty. *)\nlet f (n : int) : int =",
        "let raises e g = try ignore (g ()); false with x -> x = e\nlet () = assert (raises Empty (fun () -> f 0))",
    ),
    "several element types": one_line(
        "(** The last. *)\nlet rec last l =", 'assert (last [1] = Some 1); assert (last ["a"] = Some "a")'
    ),
    "a polymorphic annotation": one_line(
        "(** id *)\nlet id : 'a. 'a -> 'a =", 'assert (id 1 = 1); assert (id "a" = "a")'
    ),
    "a value of a function type": one_line(
        "(** id *)\nlet id : 'a -> 'a =", 'assert (id 1 = 1); assert (id "a" = "a")'
    ),
    "a locally abstract type": one_line(
        "(** id *)\nlet id (type a) (x : a) : a =", 'assert (id 1 = 1); assert (id "a" = "a")'
    ),
    "optional arguments": one_line(
        "(** From a to b. *)\nlet range ?(step = 1) a b =",
        "assert (range 1 3 = [1; 2; 3]); assert (range ~step:2 1 3 = [1; 3])",
    ),
    "labels in another order": one_line(
        "(** Less. *)\nlet less ~from ~by : int =", "assert (less ~by:1 ~from:3 = 2); assert (less ~from:3 ~by:2 = 1)"
    ),
    "an operator": one_line("(** Sum. *)\nlet ( +++ ) a b =", "assert (1 +++ 2 = 3); assert (( +++ ) 1 1 = 2)"),
    "a function by cases": one_line("(** Next. *)\nlet f = function", "assert (f 1 = 2)"),
    "two functions": one_line(
        "(** Parity. *)\nlet rec even (n : int) : bool =\nand odd (n : int) : bool =", "assert (even 2); assert (odd 3)"
    ),
    "a second function that the statement asks for": one_line(
        "(** Write `push` and `pop`. *)\nlet push x s =", "assert (pop (push 1 []) = Some 1)"
    ),
    "a truncated definition in the statement": one_line(
        "(** f *)\ntype t = A | B of\nlet f (x : t) : int =", "assert (f A = 1); assert (f (B 2) = 2)"
    ),
    "a generalized algebraic type": one_line(
        "(** e *)\ntype _ e = I : int -> int e | B : bool -> bool e\nlet rec eval : type a. a e -> a =",
        "assert (eval (I 1) = 1); assert (eval (B true))",
    ),
    "a name of the standard library": one_line("(** Max. *)\nlet max (xs : int list) : int =", "assert (max [1] = 1)"),
    "an option of its own": one_line(
        "(** t *)\ntype 'a option = Nothing | Just of 'a\nlet f (x : int) : int option =", "assert (f 1 = Just 1)"
    ),
    "fields that the statement names": one_line(
        "(** A point has fields x and y. *)\nlet norm (p : point) : float =", "assert (norm { x = 3.; y = 4. } = 5.)"
    ),
    "a module that the statement asks for": one_line(
        "(** Use your module Pile. *)\nlet f (x : int) : int =", "assert (Pile.pop (Pile.push (f 1) Pile.empty) = 1)"
    ),
    "patterns of constructors that the statement names": one_line(
        "(** Gives Node or Leaf. *)\nlet f x =",
        "assert (match f 1 with Node (l, v, r) -> v = 1 && l = r | Leaf -> false)",
    ),
    "a parameter's pattern of such a constructor": problem(
        "(** Gives a Pair. *)\nlet f x =", "let first (Pair (a, _)) = a\nlet () = assert (first (f 1) = 1)"
    ),
    "a functor in the tests": problem(
        INT, "module S = Set.Make (Int)\nlet () = assert (S.cardinal (S.of_list [f 1; f 2]) = 2)"
    ),
    "constants in two spellings": one_line(FLOAT, "assert (f 1. = 1.); assert (f 1.0 = 1e0)"),
    "values within a tolerance of each other": one_line(
        FLOAT, "assert (abs_float (f 1. -. 0.333) < 1e-2); assert (abs_float (f 1. -. 0.3334) < 1e-3)"
    ),
    "a counter": one_line("(** Counts. *)\nlet next () : int =", "assert (next () = 1); assert (next () = 2)"),
    "something that changes": problem(
        "(** Push. *)\nlet push (q : int Queue.t) x =",
        "let q = Queue.create ()\nlet () = push q 1; assert (Queue.length q = 1); push q 1; assert (Queue.length q = 2)",
    ),
    "an array that may change": problem(
        "(** Bump. *)\nlet bump (q : int array) : int =",
        "let q = [|1|]\nlet () = assert (bump q = 1); assert (bump q = 2)",
    ),
    "one name for two values": one_line(INT, "let x = 1 in assert (f x = 1); let x = 2 in assert (f x = 2)"),
    "nan by compare": one_line(FLOAT, "assert (compare (f 1.) nan = 0)"),
    "assert false on a branch": one_line(INT, "match f 1 with exception Not_found -> () | _ -> assert false"),
    "an assert that is expected to fail": one_line(
        INT, "try assert (f 1 = 1); assert (f 1 = 2) with Assert_failure _ -> ()"
    ),
    "results that follow the argument": one_line(ANY, 'assert (f 1 = 1); assert (f "a" = "two")'),
    "a function that gives a function": one_line(
        "(** const *)\nlet const x =", 'assert (const 1 "a" = 1); assert (const 1 2 = 1)'
    ),
    "an unterminated string in the comment": one_line(
        '(** Says "hello. *)\nlet f (x : int) : int =', "assert (f 1 = 1)"
    ),
}

UNSOLVABLE = {
    "tests_do_not_parse": {
        "an ellipsis": one_line(ANY, "assert (f 1 = [1; ...])"),
        "a string in single quotes": one_line(ANY, "assert (f 'abc' = 1)"),
        "prose": one_line(ANY, "assert (f 1 = Execution timed out)"),
    },
    "tests_do_not_type_check": {
        "an unquoted string": one_line(
            '(** hello\n >>> f "x"\n hello *)\nlet f (s : string) =', 'assert (f "x" = hello)'
        ),
        "an unquoted string of two words": one_line(
            "(** Says hello world. *)\nlet f (s : string) =", 'assert (f "x" = hello world)'
        ),
        "an unquoted capitalized string": one_line(
            "(** Who wins.\n >>> f 1\n Bob *)\nlet f (x : int) : string =", "assert (f 1 = Bob)"
        ),
        "a float for an int": one_line(INT, "assert (f 1 = 1.0)"),
        "too many arguments": one_line(INT, "assert (f 1 2 = 1)"),
        "a negative argument parsed as a subtraction": one_line(INT, "assert (f -1 = 1)"),
        "a constructor that nothing names": one_line(
            "(** f *)\nlet f (s : shape) : int =", "assert (f (Hexagon 1) = 3)"
        ),
        "a constructor of the statement with another argument": one_line(SHAPES, 'assert (area (Circle "a") > 3.)'),
        "an exception that nothing names": one_line(INT, "assert (try ignore (f 1); false with Minus -> true)"),
        "a field that nothing names": one_line(ANY, "assert (f { width = 1 } = 1)"),
        "a helper that nothing names": one_line(ANY, "assert (f (g 1) = 1)"),
        "a label that the signature does not have": one_line(
            "(** f *)\nlet f ~from : int =", "assert (f ~until:1 = 1)"
        ),
        "a library that is missing": one_line("(** Unix *)\nlet f x =", "assert (f 1 > Unix.time ())"),
        "a denied name": one_line(INT, 'assert (f 1 = Sys.command "true")'),
    },
    "signature_does_not_parse": {"a missing parenthesis": one_line("(** f *)\nlet f (x : int =", "assert (f 1 = 1)")},
    "signature_does_not_type_check": {
        "a list of nothing": one_line("(** f *)\nlet f (x : list) : int =", "assert (f [1] = 1)")
    },
    "no_assert": {"an assert in a comment": one_line(ANY, "ignore (f 1) (* assert *)")},
    "contradictory_asserts": {
        "two numbers": one_line(INT, "assert (f 1 = 1); assert (f 2 = 2); assert (f 1 = 3)"),
        "a call in two spellings": problem(INT, "let () = assert (f (0x10) = 1)\nlet () = assert (2 = (f @@ 16))"),
        "yes and no": one_line("(** f *)\nlet f (x : int) : bool =", "assert (f 1); assert (not (f 1))"),
        "a named constant": problem(INT, "let x = 3\nlet () = assert (f x = 1); assert (f 3 = 2)"),
        "two tolerances": one_line(
            FLOAT, "assert (abs_float (f 1. -. 0.333) < 1e-4); assert (abs_float (f 1. -. 0.4334) < 1e-3)"
        ),
    },
    "impossible_assert": {
        "assert false": one_line(INT, "assert (f 1 = 1); assert false"),
        "nan": one_line(FLOAT, "assert (f 1. = nan)"),
        "an exception at the end": one_line(INT, 'assert (f 1 = 1); failwith "to do"'),
    },
    "results_of_several_types": {"a number and a word": one_line(ANY, 'assert (f 1 = 1); assert (f 2 = "two")')},
}

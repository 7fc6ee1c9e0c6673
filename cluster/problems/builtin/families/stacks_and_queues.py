"""Last in first out, and first in first out."""

from collections.abc import Iterator
from itertools import accumulate

from cluster.problems.builtin.domains import Domain, array_of, ints, list_of, text
from cluster.problems.builtin.draft import Draft
from cluster.problems.builtin.values import NONE, Con, con, some

BRACKETS = text("()[]", 6)


_COMMANDS = Domain(
    type="command list",
    draw=lambda rng: [
        con("Push", rng.randint(0, 9)) if rng.random() < 0.6 else con("Pop") for _ in range(rng.randint(1, 6))
    ],
    edges=([],),
)


def stacks_and_queues() -> Iterator[Draft]:
    """Last in first out, and first in first out."""
    yield Draft(
        "balanced",
        "Whether all round and square brackets of a string are closed in the right order.",
        {"s": BRACKETS},
        "bool",
        """
        let rec go i stack =
          if i = String.length s then stack = []
          else
            match s.[i], stack with
            | ('(' | '['), _ -> go (i + 1) (s.[i] :: stack)
            | ')', '(' :: rest | ']', '[' :: rest -> go (i + 1) rest
            | _ -> false
        in
        go 0 []
        """,
        _balanced,
        "medium",
        cases=[("([])",), ("([)]",), ("",), ("[]()",), ("((",), ("[()]()",)],
    )
    yield Draft(
        "depth",
        "How deep the round brackets of a well-formed string are nested.",
        {"s": text("()", 6)},
        "int",
        """
        let step (open_now, deepest) c =
          let open_now = if c = '(' then open_now + 1 else open_now - 1 in
          (open_now, max deepest open_now)
        in
        snd (String.fold_left step (0, 0) s)
        """,
        lambda s: max(accumulate((1 if c == "(" else -1 for c in s), initial=0)),
        "medium",
        cases=[("()",), ("(())",), ("",), ("((()))",), ("()(())",), ("(((())))",), ("(()(()))",)],
    )
    yield Draft(
        "run_stack",
        "The stack, top first, after a list of commands; Pop on an empty stack does nothing.",
        {"commands": _COMMANDS},
        "int list",
        """
        let step stack command =
          match command, stack with
          | Push n, _ -> n :: stack
          | Pop, _ :: rest -> rest
          | Pop, [] -> []
        in
        List.fold_left step [] commands
        """,
        _run_stack,
        "medium",
        types="type command = Push of int | Pop",
    )
    yield Draft(
        "run_queue",
        "What is left in a queue, oldest first, after a list of commands; Take on an empty queue does nothing.",
        {
            "commands": Domain(
                type="command list",
                draw=lambda rng: [
                    con("Put", rng.randint(0, 9)) if rng.random() < 0.65 else con("Take")
                    for _ in range(rng.randint(1, 6))
                ],
                edges=([],),
            )
        },
        "int list",
        """
        let queue = Queue.create () in
        let run = function
          | Put n -> Queue.add n queue
          | Take -> ignore (Queue.take_opt queue)
        in
        List.iter run commands;
        List.of_seq (Queue.to_seq queue)
        """,
        _run_queue,
        "medium",
        types="type command = Put of int | Take",
    )
    yield Draft(
        "postfix",
        "The value of an expression in postfix notation with +, - and *, its parts separated by single spaces; None "
        "where it is not well-formed. Every other part is a number.",
        {"s": _postfix_texts()},
        "int option",
        """
        let rec go stack = function
          | [] -> (match stack with [x] -> Some x | _ -> None)
          | part :: rest -> (
            match part, stack with
            | "+", b :: a :: below -> go ((a + b) :: below) rest
            | "-", b :: a :: below -> go ((a - b) :: below) rest
            | "*", b :: a :: below -> go ((a * b) :: below) rest
            | ("+" | "-" | "*"), _ -> None
            | _ -> go (int_of_string part :: stack) rest)
        in
        go [] (String.split_on_char ' ' s)
        """,
        _postfix,
        "hard",
        cases=[("2 3 +",), ("4 1 - 5 *",), ("7",), ("1 +",), ("1 2",), ("2 3 4 * -",)],
    )
    yield Draft(
        "next_greater",
        "For each number of a list the next one after it that is greater, -1 where there is none.",
        {"xs": list_of(ints(0, 9))},
        "int list",
        """
        let step x (stack, found) =
          let rec drop = function y :: rest when y <= x -> drop rest | stack -> stack in
          let stack = drop stack in
          let next = match stack with y :: _ -> y | [] -> -1 in
          (x :: stack, next :: found)
        in
        snd (List.fold_right step xs ([], []))
        """,
        lambda xs: [next((y for y in xs[i:] if y > x), -1) for i, x in enumerate(xs)],
        "hard",
    )
    yield Draft(
        "window_max",
        "The largest number of each contiguous part of k numbers of an array; k >= 1.",
        {"k": ints(1, 3), "a": array_of(ints(-9, 12), longest=6, shortest=3)},
        "int list",
        """
        let largest i = Array.fold_left max a.(i) (Array.sub a i k) in
        List.init (max 0 (Array.length a - k + 1)) largest
        """,
        lambda k, a: [max(a[i : i + k]) for i in range(len(a) - k + 1)],
        "medium",
    )
    yield Draft(
        "simplify",
        'A path without "." and ".." parts and without empty ones; the path begins with "/".',
        {
            "path": Domain(
                type="string",
                draw=lambda rng: "".join("/" + rng.choice(("a", "b", "..", ".", "")) for _ in range(rng.randint(1, 5))),
            )
        },
        "string",
        """
        let step parts part =
          match part, parts with
          | ("" | "."), _ -> parts
          | "..", [] -> []
          | "..", _ :: rest -> rest
          | _ -> part :: parts
        in
        "/" ^ String.concat "/" (List.rev (List.fold_left step [] (String.split_on_char '/' path)))
        """,
        _simplify,
        "hard",
        cases=[("/a/./b",), ("/a/../c",), ("/",), ("/..",), ("/a//b/..",)],
    )


def _balanced(s: str) -> bool:
    while "()" in s or "[]" in s:
        s = s.replace("()", "").replace("[]", "")
    return not s


def _run_stack(commands: list[Con]) -> list[object]:
    stack: list[object] = []
    for command in commands:
        if command.args:
            stack.insert(0, command.args[0])
        else:
            del stack[:1]
    return stack


def _run_queue(commands: list[Con]) -> list[object]:
    queue: list[object] = []
    for command in commands:
        if command.args:
            queue.append(command.args[0])
        else:
            del queue[:1]
    return queue


def _postfix_texts() -> Domain:
    return Domain(
        type="string",
        draw=lambda rng: " ".join(
            [
                str(rng.randint(0, 9)),
                str(rng.randint(0, 9)),
                rng.choice("+-*"),
                str(rng.randint(0, 9)),
                rng.choice("+-*"),
            ]
        ),
    )


def _postfix(s: str) -> Con:
    stack: list[int] = []
    for part in s.split(" "):
        if part not in "+-*":
            stack.append(int(part))
        elif len(stack) < 2:
            return NONE
        else:
            b, a = stack.pop(), stack.pop()
            stack.append({"+": a + b, "-": a - b, "*": a * b}[part])
    return some(stack[0]) if len(stack) == 1 else NONE


def _simplify(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)

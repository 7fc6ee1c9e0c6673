"""Hostile completions that exhaust time, memory, stack, output, processes or the compiler."""

from benchmarks.mix import Job
from cluster.types import Problem

_PROBLEM = Problem(
    id="hostile",
    statement="(** Twice a number. *)",
    signature="let twice (x : int) : int =",
    tests="let () =\n  assert (twice 1 = 2);\n  assert (twice 2 = 4);\n  assert (twice 3 = 6);\n  assert (twice 0 = 0);\n;;",
)


def _nested_pairs(depth: int) -> str:
    """Return a program whose type doubles in size with every line."""
    lines = ["let p0 x = (x, x)"] + [f"let p{i} x = p{i - 1} (p{i - 1} x)" for i in range(1, depth)]
    return "\n".join([*lines, "let twice x = ignore (p1 x); x"])


_TEXTS = {
    "loops": "let rec twice x = if x > 0 then twice x else 0",
    "loops_while_loading": "let () = while true do () done\nlet twice x = 2 * x",
    "catches_its_own_timeout": "let rec twice x = try while x > 0 do () done; 0 with _ -> twice x",
    "allocates_without_end": "let twice x = let keep = ref [] in while true do keep := Bytes.make 65536 'x' :: !keep done; x",
    "asks_for_a_terabyte": "let twice x = Bytes.length (Bytes.create (1 lsl 40)) + x",
    "doubles_a_string": 'let twice x = let s = ref "ab" in while true do s := !s ^ !s done; x',
    "overflows_the_stack": "let rec twice x = 1 + twice (x + 1)",
    "overflows_and_continues": "let rec down x = 1 + down x\nlet twice x = (try down x with Stack_overflow -> 0) + x + x",
    "floods_its_output": 'let twice x = for _ = 1 to 200_000 do print_endline "xxxxxxxxxxxxxxxx" done; x',
    "floods_stderr": "let twice x = while true do prerr_string (String.make 4096 'x') done; x",
    "forks": "let twice x = if Unix.fork () = 0 then x else 2 * x",
    "runs_a_command": 'let twice x = Sys.command "sleep 1000 &" + x + x',
    "opens_files": 'let twice x = ignore (open_out "/tmp/left"); 2 * x',
    "waits_at_exit": "let () = at_exit (fun () -> while true do () done)\nlet twice x = 2 * x",
    "finalises_forever": "let () = Gc.finalise (fun _ -> while true do () done) (ref 0)\nlet twice x = 2 * x",
    "parentheses": "let twice x = " + "(" * 200_000 + "x" + ")" * 200_000,
    "a_huge_literal": 'let s = "' + "x" * 200_000 + '"\nlet twice x = x + String.length s',
    "a_huge_list": "let l = [" + "1; " * 50_000 + "]\nlet twice x = x + List.length l",
    "a_type_that_doubles": _nested_pairs(30),
    "many_errors": "\n".join(f'let a{i} = {i} + "x"' for i in range(300)) + "\nlet twice x = x",
}


def hostile_jobs() -> list[Job]:
    """Return all hostile completions, named."""
    return [Job(kind=name, problem=_PROBLEM, text=text) for name, text in _TEXTS.items()]

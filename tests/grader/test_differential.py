"""The grader compared with plain ``ocamlc``: the same programs compile, and the same asserts pass."""

import random
import re
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.types import AssertOutcome, Facts, FinishReason, Problem, Verdict
from grader.grade import Grader
from grader.settings import GraderSettings

from .plain_ocaml import PlainResult, plain_result, written_tests
from .programs import PROGRAMS, Program
from .refusals import ACCEPTED_DIFFERENTLY, REFUSED

SETTINGS = GraderSettings(min_code_lines=0, assert_cpu_seconds=0.5, run_cpu_seconds=5.0)
CHANGES_PER_PROGRAM = 6
# Typical mistakes: old -> new, at one place. Plain OCaml determines the result.
CHANGES = [
    (r" \+ ", " - "),
    (r" \* ", " + "),
    (r" - ", " + "),
    (r" < ", " <= "),
    (r" = 0\b", " = 1"),
    (r" > ", " < "),
    (r"\btrue\b", "false"),
    (r"(?<=[ (])([0-9])(?=[ );\n])", r"(\1 + 1)"),
    (r"(?<=[ (])([0-9])(?=[ );\n])", r'"\1"'),
    (r" \+ ", " +. "),
    (r" \^ ", " @ "),
    (r"\[\]", "None"),
    (r" :: ", " @ "),
    (r"\bint\b", "string"),
    (r"\bfst\b", "snd"),
    (r"\bList\.(\w+)", r"List.\1_"),
    (r"\blet rec\b", "let"),
    (r"\bfun (\w+) ->", r"fun \1 _ ->"),
    (r"\bmutable ", ""),
    (r"\bSome\b", ""),
    (r" in\n", "\n"),
    (r"\)", ""),
    (r"\(", ""),
    (r" -> ", " => "),
    (r"\bwith\b", ""),
    (r"\bend\b", ""),
    (r"\"", ""),
    (r";", ""),
    (r" = ", " "),
    (r"\blet f\b", "let g"),
    (r"\belse\b", "else if true then"),
    (r"\b(\w+) (\w+)\b", r"\2 \1"),
]


def changed(code: str, rng: random.Random) -> str:
    """A program with one change."""
    old, new = rng.choice([(old, new) for old, new in CHANGES if re.search(old, code)])
    place = rng.choice(list(re.finditer(old, code)))
    return code[: place.start()] + place.expand(new) + code[place.end() :]


def programs() -> Iterator[tuple[str, Program]]:
    """Every program, and every program with one change, always the same ones."""
    seen = set()
    for name, program in PROGRAMS.items():
        rng = random.Random(name)
        yield name, program
        for number in range(CHANGES_PER_PROGRAM):
            code = changed(program.code, rng)
            if code not in seen:
                seen.add(code)
                yield f"{name}, change {number}", Program(code, program.asserts, program.set_up, program.in_order)


def graded(grader: Grader, program: Program) -> Facts:
    problem = Problem(id="made", statement="", signature="let f x =", tests=written_tests(program))
    return grader.grade(problem, program.code, FinishReason.STOP).facts


def disagreement(plain: PlainResult, facts: Facts) -> str:
    """The difference between the grader's result and plain OCaml's; empty if they agree."""
    if plain.refused is not None:
        return "" if facts.verdict is plain.refused else f"plain: {plain.refused}, grader: {facts.verdict}"
    if not facts.compiled:
        return f"plain: runs, grader: {facts.verdict}"
    # The grader reports one more outcome if the tests end early outside the asserts.
    if tuple(facts.asserts[: len(plain.asserts)]) == plain.asserts:
        return ""
    return f"plain: {', '.join(plain.asserts)}\n  grader: {', '.join(facts.asserts)}"


def test_over_500_programs_get_the_same_results_as_with_plain_ocaml(tmp_path: Path) -> None:
    waiting, lock = programs(), threading.Lock()
    wrong: list[str] = []
    kinds: Counter[str] = Counter()

    def work(folder: Path) -> None:
        folder.mkdir()
        with Grader(SETTINGS) as grader:
            while True:
                with lock:
                    name, program = next(waiting, ("", None))
                if program is None:
                    return
                plain, facts = plain_result(program, folder), graded(grader, program)
                difference = disagreement(plain, facts)
                kinds["passed" if set(plain.asserts) == {AssertOutcome.PASSED} else plain.refused or "not passed"] += 1
                if difference and name.split(",")[0] not in ACCEPTED_DIFFERENTLY:
                    wrong.append(f"{name}: {difference}\n  {facts.diagnostics}\n{program.code}\n{program.asserts}\n")

    with ThreadPoolExecutor(max_workers=2) as pool:
        for ended in [pool.submit(work, tmp_path / str(number)) for number in range(2)]:
            ended.result()
    assert not wrong, f"{len(wrong)} of {kinds.total()} differ:\n" + "\n".join(sorted(wrong))
    assert kinds.total() >= 500
    assert all(kinds[kind] >= 30 for kind in ("passed", "not passed", *REFUSALS)), kinds


REFUSALS = (Verdict.SYNTAX_ERROR, Verdict.TYPE_ERROR, Verdict.INTERFACE)


@pytest.mark.parametrize("name", REFUSED)
def test_intended_refusals_are_accepted_by_plain_ocaml(grader: Grader, tmp_path: Path, name: str) -> None:
    code, verdict, _reason = REFUSED[name]
    program = Program(code, ("f 1 = 1", "f 2 = 3"))
    facts = graded(grader, program)
    assert (facts.verdict, facts.tests_passed) == (verdict, 0), facts.diagnostics
    assert plain_result(program, tmp_path).refused is None

"""Completions to grade: 40 to 60 lines, 6 to 10 asserts, in the proportions of a training run.

Each is a reference solution of a built-in problem, preceded by other solutions in the place of helper functions. The problems are
those with the longest solutions, one per function name. Edits that imitate typical mistakes of models make a completion wrong,
ill-typed or unparsable, and a run with plain ``ocamlc`` confirms its kind.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.plain import ThreeProcesses
from cluster.problems.builtin import builtin_problems
from cluster.types import Problem, Verdict
from grader.signature import given_definitions

SHARES: Mapping[str, float] = {
    "right": 0.45,
    "wrong": 0.22,
    "type_error": 0.20,
    "syntax_error": 0.09,
    "stack_overflow": 0.04,
}
# Verdicts of the grader by kind. Plain OCaml reports a false assert as an exception too.
VERDICTS: Mapping[str, frozenset[Verdict]] = {
    "right": frozenset({Verdict.PASSED}),
    "wrong": frozenset({Verdict.WRONG, Verdict.RAISED}),
    "type_error": frozenset({Verdict.TYPE_ERROR}),
    "syntax_error": frozenset({Verdict.SYNTAX_ERROR}),
    "stack_overflow": frozenset({Verdict.RAISED}),
    "limit_bound": frozenset({Verdict.TIMEOUT}),
}
NUM_PROGRAMS = 60
MIN_LINES, MAX_LINES = 40, 60
_MIN_ASSERTS, _MAX_ASSERTS = 6, 10
_NUM_TRIES = 200

Change = Callable[[str, random.Random], str]
"""Edit of a program: code, random source -> changed code, or the same code if the edit does not apply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One completion to grade."""

    kind: str
    problem: Problem
    text: str


def base_problems() -> list[Problem]:
    """Return ``NUM_PROGRAMS`` problems with 6 to 10 asserts, different function names and the longest solutions."""
    by_name: dict[str, Problem] = {}
    for problem in builtin_problems():
        if problem.solution and _MIN_ASSERTS <= problem.tests.count("assert") <= _MAX_ASSERTS:
            by_name.setdefault(problem.id.split("-")[1], problem)
    longest = sorted(by_name.values(), key=lambda problem: (-len(problem.solution or ""), problem.id))
    return longest[:NUM_PROGRAMS]


def jobs(number: int, seed: int = 0) -> list[Job]:
    """Make different completions in the proportions of ``SHARES``, grouped by kind."""
    kinds = [kind for kind, share in SHARES.items() for _ in range(round(number * share))]
    return list(_generate(kinds, random.Random(seed)))


def limit_bound(number: int, seed: int = 0) -> list[Job]:
    """Make completions that loop forever in some of their asserts."""
    return list(_generate(["limit_bound"] * number, random.Random(seed)))


def in_rounds(completions: Sequence[Job], num_rounds: int, seed: int = 0) -> list[list[Job]]:
    """Distribute the completions over rounds with equal proportions of kinds, in random order."""
    rounds: list[list[Job]] = [[] for _ in range(num_rounds)]
    for index, job in enumerate(completions):
        rounds[index % num_rounds].append(job)
    for one in rounds:
        random.Random(seed).shuffle(one)
    return rounds


def _generate(kinds: Sequence[str], rng: random.Random) -> Iterator[Job]:
    bases = base_problems()
    helpers = [problem for problem in bases if not given_definitions(problem.statement)]
    plain, seen = ThreeProcesses(), set[str]()
    for index, kind in enumerate(kinds):
        for attempt in range(_NUM_TRIES):
            base = bases[(index + attempt) % len(bases)]
            text = _completion(base, kind, helpers, rng)
            if text is None or text in seen:
                continue
            if kind == "limit_bound" or plain.grade(base, text) == kind:
                seen.add(text)
                yield Job(kind=kind, problem=base, text=text)
                break
        else:
            raise RuntimeError(f"no completion of kind {kind} was found in {_NUM_TRIES} tries")


def _completion(base: Problem, kind: str, helpers: Sequence[Problem], rng: random.Random) -> str | None:
    """Make a completion of a kind; None if the problem's solution cannot be changed to it."""
    code = base.solution or ""
    change = _CHANGES[kind]
    if kind in _ANSWER_ONLY:
        changed = change(code, rng)
        if changed == code:
            return None
        return _with_helpers(base, changed, helpers, rng)
    whole = _with_helpers(base, code, helpers, rng)
    changed = change(whole, rng)
    return None if changed == whole and kind != "right" else changed


def _with_helpers(base: Problem, answer: str, helpers: Sequence[Problem], rng: random.Random) -> str:
    length = rng.randint(MIN_LINES, MAX_LINES - 6)
    parts = [f"(* The answer. *)\n{answer}"]
    for helper in rng.sample(helpers, len(helpers)):
        piece = f"(* {helper.id.split('-')[1].replace('_', ' ').capitalize()}. *)\n{helper.solution}"
        lines = sum(part.count("\n") + 2 for part in parts) + piece.count("\n") + 2
        if helper.id == base.id or lines > MAX_LINES - 2:
            continue
        parts.insert(0, piece)
        if lines >= length:
            break
    return "\n\n".join(parts) + "\n\n(* END *)"


def _unchanged(code: str, _rng: random.Random) -> str:
    return code


def _replacing(pairs: Sequence[tuple[str, str]], max_places: int) -> Change:
    """Return a change that applies random pairs (pattern, replacement) at one to ``max_places`` places."""

    def change(code: str, rng: random.Random) -> str:
        for _ in range(rng.randint(1, max_places)):
            places = [(found, new) for old, new in pairs for found in re.finditer(old, code)]
            if not places:
                return code
            found, new = rng.choice(places)
            code = code[: found.start()] + found.expand(new) + code[found.end() :]
        return code

    return change


_WRONG = _replacing(
    [
        (r" \+ ", " - "),
        (r" - ", " + "),
        (r" \* ", " + "),
        (r" < ", " > "),
        (r" > ", " >= "),
        (r" <= ", " < "),
        (r" && ", " || "),
        (r"\btrue\b", "false"),
        (r"\bfst\b", "snd"),
        (r"\bmax\b", "min"),
        (r"(?<=[ (])([0-8])(?=[ )\n])", r"(\1 + 1)"),
        (r"\bthen (\w+)\n? +else (\w+)\b", r"then \2 else \1"),
    ],
    1,
)
_TYPE_ERROR = _replacing(
    [
        (r" \+ ", " ^ "),
        (r" \* ", " *. "),
        (r" \^ ", " + "),
        (r"\[\]", "0"),
        (r"(?<=[ (])([0-9])(?=[ )\n])", r'"\1"'),
        (r"\btrue\b", "1"),
        (r"\bList\.length\b", "List.size"),
        (r"\bString\.length\b", "Array.length"),
        (r"\bList\.map (\w+)", r"List.map"),
        (r" @ ", " :: "),
        (r" :: ", " @ "),
        (r"\bSome (\w+)", r"\1"),
    ],
    3,
)
_SYNTAX_ERROR = _replacing(
    [
        (r" in\n", "\n"),
        (r"(?<!\*)\)", ""),
        (r"\((?!\*)", ""),
        (r" then ", " "),
        (r" -> ", " => "),
        (r" with\n", "\n"),
        (r"\bmatch ", "match "),
        (r"(?<= : int) =\n", "\n"),
        (r"\bdone\b", "end"),
        (r"\belse ", "else: "),
    ],
    1,
)


def _beginning_with(first: str) -> Change:
    """Return a change that puts an expression before the function body; ``{call}`` is a call with the same arguments."""

    def change(code: str, _rng: random.Random) -> str:
        head = re.match(r"let (?:rec )?(\w+)((?: \(\w+ : [^()]*(?:\([^()]*\)[^()]*)*\))+)( : [^\n]*=)\n", code)
        if head is None:
            return code
        name, parameters, result = head.groups()
        call = " ".join([name, *re.findall(r"\((\w+) :", parameters)])
        lines = first.format(call=call)
        return f"let rec {name}{parameters}{result}\n  {lines}\n{code[head.end() :]}"

    return change


_CHANGES: Mapping[str, Change] = {
    "right": _unchanged,
    "wrong": _WRONG,
    "type_error": _TYPE_ERROR,
    "syntax_error": _SYNTAX_ERROR,
    "stack_overflow": _beginning_with("let again = {call} in\n  ignore again;"),
    "limit_bound": _beginning_with("while Sys.opaque_identity true do () done;"),
}
_ANSWER_ONLY = frozenset({"wrong", "stack_overflow", "limit_bound"})
"""Kinds whose edit must be in the tested function; the others may have it in a helper function."""

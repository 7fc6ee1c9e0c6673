"""Draft of a problem, and the statement, tests and solution made from it.

Expected values come from a Python reference, never from the OCaml solution. The tests of the built-in set compile every
solution and run it against them.
"""

import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from random import Random

from cluster.problems.builtin.domains import Domain
from cluster.problems.builtin.values import argument, ocaml
from cluster.types import Problem

NUM_EXAMPLES = 2
NUM_CANDIDATES = 60  # inputs drawn per problem; examples and tests are chosen from them
MAX_EXAMPLE_CHARS = 110  # call and result together; keeps prompts short
MAX_TEST_CHARS = 1000
IS_ARGUMENT = "an argument"  # key of a counter of OCaml values; no OCaml value is spelled like this
MAX_EDGES = 4  # edge cases per problem
NUM_TESTS = {"easy": 6, "medium": 7}  # by difficulty; the examples count as tests


@dataclass(frozen=True, slots=True)
class Draft:
    """One problem: text, parameters, and the solution in OCaml and in Python."""

    name: str  # of the OCaml function
    about: str  # one or a few sentences of English
    params: Mapping[str, Domain]
    result: str  # OCaml type
    body: str  # OCaml, without the signature
    reference: Callable[..., object]  # takes the arguments in order
    difficulty: str = "easy"
    rec: bool = False  # the function is recursive
    types: str = ""  # OCaml type definitions that the signature needs
    cases: Sequence[tuple[object, ...]] = ()  # argument tuples used before any drawn one


@dataclass(frozen=True, slots=True)
class Case:
    """One call and its expected result."""

    call: str
    expected: str
    is_argument: bool  # the result is one of the arguments

    def num_similar(self, seen: Counter[str]) -> int:
        """Return the number of counted cases with the same result, plus those that return an argument if this one does."""
        return seen[self.expected] + (seen[IS_ARGUMENT] if self.is_argument else 0)

    def count_in(self, seen: Counter[str]) -> None:
        """Add this case to the counter."""
        seen[self.expected] += 1
        seen[IS_ARGUMENT] += self.is_argument


def make_problem(draft: Draft, problem_id: str) -> Problem:
    """Make the problem of a draft. ``problem_id`` is the seed of the drawn inputs."""
    examples, others = _cases(draft, Random(problem_id))
    params = " ".join(f"({name} : {domain.type})" for name, domain in draft.params.items())
    signature = f"let {'rec ' if draft.rec else ''}{draft.name} {params} : {draft.result} ="
    shown = "".join(f" * >>> {case.call}\n * {case.expected}\n" for case in examples)
    about = "\n".join(textwrap.wrap(draft.about, 110, subsequent_indent=" * "))
    types = f"\n{_block(draft.types)}" if draft.types else ""
    asserts = "".join(f"  assert ({case.call} = {case.expected});\n" for case in (*examples, *others))
    return Problem(
        id=problem_id,
        statement=f"(** {about}\n{shown} *){types}",
        signature=signature,
        tests=f"let () =\n{asserts};;",
        difficulty=draft.difficulty,
        solution=f"{signature}\n{textwrap.indent(_block(draft.body), '  ')}",
    )


def _cases(draft: Draft, rng: Random) -> tuple[list[Case], list[Case]]:
    """Return the examples and the other tests, with expected values as varied as the inputs allow."""
    edges = _edge_arguments(draft, rng)[:MAX_EDGES]
    drawn = (tuple(domain.draw(rng) for domain in draft.params.values()) for _ in range(NUM_CANDIDATES))
    seen: Counter[str] = Counter()
    calls: set[str] = set()
    examples = _spread(draft, chain(draft.cases[:NUM_EXAMPLES], drawn), NUM_EXAMPLES, seen, calls, MAX_EXAMPLE_CHARS)
    rest = chain(draft.cases[NUM_EXAMPLES:], edges, drawn)
    return examples, _spread(draft, rest, NUM_TESTS[draft.difficulty] - len(examples), seen, calls, MAX_TEST_CHARS)


def _edge_arguments(draft: Draft, rng: Random) -> list[tuple[object, ...]]:
    """Return each edge case of each parameter; the other parameters are drawn."""
    domains = list(draft.params.values())
    return [
        tuple(edge if j == i else other.draw(rng) for j, other in enumerate(domains))
        for i, domain in enumerate(domains)
        for edge in domain.edges
    ]


def _spread(
    draft: Draft,
    candidates: Iterator[tuple[object, ...]],
    wanted: int,
    seen: Counter[str],
    calls: set[str],
    max_chars: int,
) -> list[Case]:
    """Choose ``wanted`` new cases: first those that resemble no chosen case, then those that resemble the fewest.

    ``seen`` and ``calls`` count the chosen cases and are updated. Cases over ``max_chars`` characters are skipped.
    """
    chosen: list[Case] = []
    others: list[Case] = []
    while len(chosen) < wanted and (values := next(candidates, None)) is not None:
        case = _case(draft, values)
        if case.call in calls or len(case.call) + len(case.expected) > max_chars:
            continue
        calls.add(case.call)
        if case.num_similar(seen):
            others.append(case)
        else:
            chosen.append(case)
            case.count_in(seen)
    while others and len(chosen) < wanted:
        case = min(others, key=lambda other: other.num_similar(seen))
        others.remove(case)
        chosen.append(case)
        case.count_in(seen)
    return chosen


def _case(draft: Draft, values: tuple[object, ...]) -> Case:
    arguments = [argument(value) for value in values]
    expected = draft.reference(*values)
    return Case(
        call=f"{draft.name} {' '.join(arguments)}",
        expected=ocaml(expected),
        is_argument=argument(expected) in arguments,
    )


def _block(code: str) -> str:
    return textwrap.dedent(code).strip("\n")

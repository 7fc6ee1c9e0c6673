"""A problem as its author writes it, and how statement, tests and solution are made of it.

The expected values come from a Python reference, never from the OCaml one: that both agree is what the tests of the
built-in set check with the real compiler.
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
NUM_CANDIDATES = 60  # drawn inputs per problem, of which the tests are chosen
MAX_EXAMPLE_CHARS = 110  # of a call and its result, so that prompts stay short
MAX_TEST_CHARS = 1000
HANDS_BACK = "an argument"  # no OCaml value is spelled like this
NUM_EDGES = 4  # edge cases per problem, at most
NUM_TESTS = {"easy": 6, "medium": 7, "hard": 8}


@dataclass(frozen=True, slots=True)
class Draft:
    """One problem: what it asks, what it is called with, and its solution twice, in OCaml and in Python."""

    name: str  # of the OCaml function
    about: str  # one or a few sentences
    params: Mapping[str, Domain]
    result: str  # OCaml type
    body: str  # OCaml, without the signature
    reference: Callable[..., object]  # takes the arguments in order
    level: str = "easy"
    rec: bool = False
    types: str = ""  # OCaml type definitions that the signature needs
    cases: Sequence[tuple[object, ...]] = ()  # argument tuples tried before any drawn one


@dataclass(frozen=True, slots=True)
class Case:
    """One call and what it must give."""

    call: str
    expected: str
    hands_back: bool  # whether the result is one of the arguments

    def likeness(self, seen: Counter[str]) -> int:
        """How many cases like this one are counted: of the same result, or that hand an argument back as well."""
        return seen[self.expected] + (seen[HANDS_BACK] if self.hands_back else 0)

    def count(self, seen: Counter[str]) -> None:
        """Count this case."""
        seen[self.expected] += 1
        seen[HANDS_BACK] += self.hands_back


def problem(draft: Draft, problem_id: str) -> Problem:
    """Make the problem of a draft; the drawn inputs depend on nothing but ``problem_id``."""
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
        difficulty=draft.level,
        solution=f"{signature}\n{textwrap.indent(_block(draft.body), '  ')}",
    )


def _cases(draft: Draft, rng: Random) -> tuple[list[Case], list[Case]]:
    """The examples and the other tests, with the expected values as evenly spread as the inputs allow."""
    edges = _edge_arguments(draft, rng)[:NUM_EDGES]
    drawn = (tuple(domain.draw(rng) for domain in draft.params.values()) for _ in range(NUM_CANDIDATES))
    seen: Counter[str] = Counter()
    calls: set[str] = set()
    examples = _spread(draft, chain(draft.cases[:NUM_EXAMPLES], drawn), NUM_EXAMPLES, seen, calls, MAX_EXAMPLE_CHARS)
    rest = chain(draft.cases[NUM_EXAMPLES:], edges, drawn)
    return examples, _spread(draft, rest, NUM_TESTS[draft.level] - len(examples), seen, calls, MAX_TEST_CHARS)


def _edge_arguments(draft: Draft, rng: Random) -> list[tuple[object, ...]]:
    """Each edge case of each parameter, the other parameters drawn."""
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
    """Take ``wanted`` new cases: the first ones unlike all taken before, then those of which the fewest like them were taken.

    Cases of more than ``max_chars`` characters are passed over.
    """
    taken: list[Case] = []
    others: list[Case] = []
    while len(taken) < wanted and (values := next(candidates, None)) is not None:
        case = _case(draft, values)
        if case.call in calls or len(case.call) + len(case.expected) > max_chars:
            continue
        calls.add(case.call)
        if case.likeness(seen):
            others.append(case)
        else:
            taken.append(case)
            case.count(seen)
    while others and len(taken) < wanted:
        case = min(others, key=lambda other: other.likeness(seen))
        others.remove(case)
        taken.append(case)
        case.count(seen)
    return taken


def _case(draft: Draft, values: tuple[object, ...]) -> Case:
    arguments = [argument(value) for value in values]
    expected = draft.reference(*values)
    return Case(
        call=f"{draft.name} {' '.join(arguments)}", expected=ocaml(expected), hands_back=argument(expected) in arguments
    )


def _block(code: str) -> str:
    return textwrap.dedent(code).strip("\n")

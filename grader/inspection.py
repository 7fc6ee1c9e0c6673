"""The inspection of a problem's own text: the request and the result. Pure; ``grader/ocaml/inspect.ml`` answers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.errors import UngradableError
from cluster.types import Problem
from grader.examples import described_definitions, examples, signature_candidates
from grader.signature import defined_name, given_definitions

STUB = "stub_of_the_audit"  # the same name as in feasible.ml
_ARITY = {b"cause": 2, b"warning": 2, b"assert": 6}
_MAX_MESSAGE = 400  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedAssert:
    """One assert of the tests."""

    text: str  # its condition in a normal form: equal texts are the same condition
    line: int  # of the tests, 1 for the first
    covered_by_example: bool  # by an example of the statement
    call: str  # the call whose value it checks; empty if it checks several things, or no value
    value: str  # the constant that the call must equal; empty if there is none
    direct: bool  # the call is one of the problem's function, so that the value has its result type


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Facts about a problem that are known without running anything."""

    asserts: tuple[InspectedAssert, ...] = ()  # in the order in which they are graded
    causes: tuple[str, ...] = ()  # "code: message", each a reason why no solution can pass
    warnings: tuple[str, ...] = ()  # "code: message"

    @property
    def covered_by_example(self) -> tuple[bool, ...]:
        """Per assert, whether an example of the statement covers it."""
        return tuple(assertion.covered_by_example for assertion in self.asserts)


def inspection_request(problem: Problem, *, cpu_seconds: float, everything: bool) -> list[bytes]:
    """Make the request to the front end; ``everything`` asks for causes and warnings as well."""
    name = defined_name(problem.signature)
    candidates = signature_candidates(problem.signature, STUB) if everything else []
    described = described_definitions(problem.statement) if everything else []
    example_texts = [text for example in examples(problem.statement, name) for text in example]
    fields = [
        "inspect",
        f"{cpu_seconds}",
        "everything" if everything else "examples",
        name,
        given_definitions(problem.statement),
        problem.tests,
        problem.prompt,
        str(len(candidates)),
        *candidates,
        str(len(described)),
        *described,
        *example_texts,
    ]
    return [field.encode(errors="replace") for field in fields]


def read_inspection(fields: Sequence[bytes]) -> Inspection:
    """Read the front end's answer; raises UngradableError if it is malformed."""
    if len(fields) >= 2 and fields[0] == b"died":
        reason = fields[1].decode(errors="replace")
        return Inspection(causes=(f"tests_do_not_compile: the compiler died: {reason}",))
    asserts: list[InspectedAssert] = []
    texts: dict[bytes, list[str]] = {b"cause": [], b"warning": []}
    for tag, record in _records(fields):
        if tag == b"assert":
            text, line, covered_by_example, call, value, direct = record
            asserts.append(
                InspectedAssert(
                    text=text,
                    line=int(line),
                    covered_by_example=covered_by_example == "true",
                    call=call,
                    value=value,
                    direct=direct == "true",
                )
            )
        else:
            code, message = record
            texts[tag].append(f"{code}: {' '.join(message.split())[:_MAX_MESSAGE]}")
    return Inspection(
        asserts=tuple(asserts),
        causes=tuple(dict.fromkeys(texts[b"cause"])),
        warnings=tuple(dict.fromkeys(texts[b"warning"])),
    )


def _records(fields: Sequence[bytes]) -> Iterator[tuple[bytes, list[str]]]:
    position = 0
    while position < len(fields):
        tag = fields[position]
        end = position + 1 + _ARITY.get(tag, len(fields))
        if end > len(fields):
            raise UngradableError("the OCaml front end sent an answer of unknown form")
        yield tag, [field.decode(errors="replace") for field in fields[position + 1 : end]]
        position = end

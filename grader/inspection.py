"""What a problem says about itself, as a record. Pure; the other end is ``grader/ocaml/inspect.ml``."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cluster.errors import UngradableError
from cluster.types import Problem
from grader.examples import described_definitions, examples, signature_readings
from grader.signature import defined_name, given_definitions

STUB = "stub_of_the_audit"  # the name that feasible.ml gives it
_ARITY = {b"cause": 2, b"warning": 2, b"assert": 6}
_MAX_MESSAGE = 400  # characters


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedAssert:
    """One assert of the tests."""

    text: str  # its condition in a normal form: equal texts are the same condition
    line: int  # of the tests, 1 for the first
    shown: bool  # whether the statement's examples give it away
    call: str  # the call that it is about; empty where it claims more than one thing, or no value
    value: str  # the constant that the call has to equal; empty where there is none
    direct: bool  # whether the call is one of the problem's function itself, so that the value is of its result type


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What can be said about a problem without running anything."""

    asserts: tuple[InspectedAssert, ...] = ()  # in the order in which they are graded
    causes: tuple[str, ...] = ()  # "code: message", why no solution can pass; empty where one can
    warnings: tuple[str, ...] = ()  # "code: message"

    @property
    def shown(self) -> tuple[bool, ...]:
        """Per assert, whether the statement gives it away."""
        return tuple(one.shown for one in self.asserts)


def inspection_request(problem: Problem, *, cpu_seconds: float, everything: bool) -> list[bytes]:
    """The front end's request; ``everything`` asks for causes and warnings too."""
    name = defined_name(problem.signature)
    readings = signature_readings(problem.signature, STUB) if everything else []
    described = described_definitions(problem.statement) if everything else []
    shown = [text for example in examples(problem.statement, name) for text in example]
    fields = [
        "inspect",
        f"{cpu_seconds}",
        "everything" if everything else "examples",
        name,
        given_definitions(problem.statement),
        problem.tests,
        problem.prompt,
        str(len(readings)),
        *readings,
        str(len(described)),
        *described,
        *shown,
    ]
    return [field.encode(errors="replace") for field in fields]


def read_inspection(fields: Sequence[bytes]) -> Inspection:
    """Read the front end's answer; UngradableError where it makes no sense."""
    if len(fields) >= 2 and fields[0] == b"died":
        reason = fields[1].decode(errors="replace")
        return Inspection(causes=(f"tests_do_not_compile: the compiler gave up: {reason}",))
    asserts: list[InspectedAssert] = []
    texts: dict[bytes, list[str]] = {b"cause": [], b"warning": []}
    for tag, record in _records(fields):
        if tag == b"assert":
            text, line, shown, call, value, direct = record
            asserts.append(
                InspectedAssert(
                    text=text, line=int(line), shown=shown == "true", call=call, value=value, direct=direct == "true"
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
            raise UngradableError("the OCaml front end answers in a form that this version does not know")
        yield tag, [field.decode(errors="replace") for field in fields[position + 1 : end]]
        position = end

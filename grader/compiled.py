"""The front end's answer, as a record. Pure; the other end is ``grader/ocaml/front.ml``."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.errors import UngradableError
from cluster.types import CodeError, Verdict
from grader import frames as wire

_VERDICTS = {
    b"syntax_error": Verdict.SYNTAX_ERROR,
    b"denied": Verdict.DENIED,
    b"type_error": Verdict.TYPE_ERROR,
    b"interface": Verdict.INTERFACE,
    b"ready": Verdict.PASSED,  # so far: what remains is to run it
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What the compiler found out about one completion."""

    verdict: Verdict
    chosen: int  # index of the reading that it took
    message: str  # what is wrong between the program and the tests
    errors: tuple[CodeError, ...]  # what is wrong with the program itself; lines count from the program's first
    num_steps: int  # statements of the tests
    owners: tuple[int, ...]  # per assert, the step that holds it
    blob: bytes  # bytecode for the runner, empty where there is none


def read_answer(fields: Sequence[bytes]) -> Compiled:
    """Read the front end's answer; UngradableError where it makes no sense."""
    if len(fields) == 3 and fields[0] == b"died":
        reason = fields[1].decode(errors="replace")
        # A bomb for the compiler: its types explode, its brackets overflow the stack. The front end itself is sound (it
        # greeted, and it answers), so that this is the program's doing.
        return Compiled(
            verdict=Verdict.TIMEOUT,
            chosen=0,
            message=f"the compiler gave up: {reason}",
            errors=(),
            num_steps=0,
            owners=tuple(int(owner) for owner in fields[2].split()),
            blob=b"",
        )
    if len(fields) != 7 or fields[0] not in _VERDICTS:
        raise UngradableError("the OCaml front end answers in a form that this version does not know")
    outcome, chosen, message, errors, num_steps, owners, blob = fields
    return Compiled(
        verdict=_VERDICTS[outcome],
        chosen=int(chosen),
        message=message.decode(errors="replace"),
        errors=_errors(wire.decode(errors)),
        num_steps=int(num_steps),
        owners=tuple(int(owner) for owner in owners.split()),
        blob=blob,
    )


def _errors(fields: Sequence[bytes]) -> tuple[CodeError, ...]:
    pairs = zip(fields[::2], fields[1::2], strict=True)
    return tuple(CodeError(line=int(line), message=message.decode(errors="replace")) for line, message in pairs)

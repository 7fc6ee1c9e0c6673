"""The front end's answer as a record. Pure; ``grader/ocaml/front.ml`` writes it."""

from collections.abc import Sequence
from dataclasses import dataclass

from cluster.errors import UngradableError
from cluster.types import CodeError, Verdict
from grader import frames

_VERDICTS = {
    b"syntax_error": Verdict.SYNTAX_ERROR,
    b"denied": Verdict.DENIED,
    b"type_error": Verdict.TYPE_ERROR,
    b"interface": Verdict.INTERFACE,
    b"ready": Verdict.PASSED,  # replaced by the verdict of the run
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """The compiler's result for one completion."""

    verdict: Verdict
    chosen: int  # index of the candidate program that was compiled
    message: str  # error between the program and the tests
    errors: tuple[CodeError, ...]  # in the program; line 1 is the program's first line
    num_steps: int  # statements of the tests
    owners: tuple[int, ...]  # per assert, its step; 0 for an assert in a function
    blob: bytes  # bytecode for the runner; empty if there is none


def read_answer(fields: Sequence[bytes]) -> Compiled:
    """Read the front end's answer; raises UngradableError if it is malformed."""
    if len(fields) == 3 and fields[0] == b"died":
        reason = fields[1].decode(errors="replace")
        # The program exhausted the compiler: its types explode or its brackets overflow the stack. The front end itself
        # works (it sent its greeting and this answer).
        return Compiled(
            verdict=Verdict.TIMEOUT,
            chosen=0,
            message=f"the compiler died: {reason}",
            errors=(),
            num_steps=0,
            owners=tuple(int(owner) for owner in fields[2].split()),
            blob=b"",
        )
    if len(fields) != 7 or fields[0] not in _VERDICTS:
        raise UngradableError("the OCaml front end sent an answer of unknown form")
    outcome, chosen, message, errors, num_steps, owners, blob = fields
    return Compiled(
        verdict=_VERDICTS[outcome],
        chosen=int(chosen),
        message=message.decode(errors="replace"),
        errors=_errors(frames.decode(errors)),
        num_steps=int(num_steps),
        owners=tuple(int(owner) for owner in owners.split()),
        blob=blob,
    )


def _errors(fields: Sequence[bytes]) -> tuple[CodeError, ...]:
    pairs = zip(fields[::2], fields[1::2], strict=True)
    return tuple(CodeError(line=int(line), message=message.decode(errors="replace")) for line, message in pairs)

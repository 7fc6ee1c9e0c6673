"""The audit of a problem: can any solution pass its tests, and what do the tests measure?

A *cause* makes a problem unsolvable: no solution can pass its tests. Causes are proven from the text alone (see
``grader/ocaml/inspect.ml``); a reference solution that passes refutes them. A *warning* is for a person to check. Both are
texts of the form ``code: message``.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.types import Facts, FinishReason, Problem, Verdict
from grader.examples import signature_candidates
from grader.grade import Grader
from grader.inspection import InspectedAssert, Inspection
from grader.prompt_code import has_body

STUB = '(failwith "stub")'
_MAX_CONSTANTS = 8
_CONSTANT_SHARE = 0.5  # of the asserts: a constant that passes fewer is not worth a warning


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemAudit:
    """The result of auditing one problem."""

    causes: tuple[str, ...]  # each a reason why no solution can pass
    warnings: tuple[str, ...]
    asserts: tuple[str, ...] = ()  # their conditions in a normal form

    @property
    def solvable(self) -> bool:
        """True if no cause was found."""
        return not self.causes


def unsolvable_causes(grader: Grader, problem: Problem) -> tuple[str, ...]:
    """Causes that make a problem unsolvable, the part of the audit that training needs; raises UngradableError."""
    causes = grader.inspect(problem).causes
    return () if causes and _reference_passes(grader, problem) else causes


def audit_problem(grader: Grader, problem: Problem) -> ProblemAudit:
    """Audit one problem; raises UngradableError if the machine failed."""
    inspection = grader.inspect(problem)
    causes, warnings = inspection.causes, [*inspection.warnings]
    if problem.solution is not None:
        facts = grader.grade(problem, problem.solution, FinishReason.STOP).facts
        if facts.verdict is Verdict.PASSED:
            warnings += [f"refuted_cause: the reference solution passes all the same; {cause}" for cause in causes]
            causes = ()
        else:
            warnings.append(_failed_reference(facts))
    if has_body(problem.signature):
        warnings.append(
            "signature_has_body: the prompt's definition seems complete: a completion that continues it cannot change it"
        )
    warnings += _repetitions(inspection)
    if not causes:
        warnings += [*_stub(grader, problem), *_constants(grader, problem, inspection.asserts)]
    return ProblemAudit(causes=causes, warnings=tuple(warnings), asserts=tuple(one.text for one in inspection.asserts))


def _reference_passes(grader: Grader, problem: Problem) -> bool:
    if problem.solution is None:
        return False
    return grader.grade(problem, problem.solution, FinishReason.STOP).facts.verdict is Verdict.PASSED


def _failed_reference(facts: Facts) -> str:
    reason = f"{facts.tests_passed} of {facts.tests_total} asserts pass"
    if not facts.compiled:
        first = facts.diagnostics.strip().splitlines()
        reason = f"it does not compile with the tests ({facts.verdict}): {first[0] if first else 'no message'}"
    return f"reference_fails: {reason}"


def _repetitions(inspection: Inspection) -> list[str]:
    asserts, warnings = inspection.asserts, []
    num_covered = sum(inspection.covered_by_example)
    if num_covered:
        warnings.append(
            f"shown_asserts: {num_covered} of {len(asserts)} asserts are covered by the statement's examples"
        )
    lines: dict[str, list[int]] = {}
    for one in asserts:
        lines.setdefault(one.text, []).append(one.line)
    repeated = [(text, places) for text, places in lines.items() if len(places) > 1]
    if repeated:
        extra = sum(len(places) - 1 for _, places in repeated)
        text, places = repeated[0]
        where = ", ".join(map(str, places))
        warnings.append(
            f"duplicate_asserts: {extra} of {len(asserts)} asserts repeat an earlier one: lines {where}: {text}"
        )
    return warnings


def _passed_by(grader: Grader, problem: Problem, body: str) -> Facts:
    """Grade the signature with this body, in the first form that parses."""
    facts = None
    for program in dict.fromkeys(signature_candidates(problem.signature, body)):
        facts = grader.grade(problem, program, FinishReason.STOP).facts
        if not facts.syntax_error:
            break
    assert facts is not None
    return facts


def _stub(grader: Grader, problem: Problem) -> list[str]:
    facts = _passed_by(grader, problem, STUB)
    if not facts.tests_passed:
        return []
    return [f"stub_passes: a solution that only raises passes {facts.tests_passed} of {facts.tests_total} asserts"]


def _constants(grader: Grader, problem: Problem, asserts: Sequence[InspectedAssert]) -> list[str]:
    """Warn of the constant that passes most asserts, among the values that asserts compare the function's result with."""
    if len(asserts) < 2:
        return []
    values = Counter(one.value for one in asserts if one.value and one.direct)
    # Whether a constant passes an assert of another form is known only by running it.
    unclear = sum(not (one.value and one.direct) for one in asserts)
    candidates = [value for value, count in values.most_common() if count + unclear >= _CONSTANT_SHARE * len(asserts)]
    best, passed, total = "", 0, len(asserts)
    for value in candidates[:_MAX_CONSTANTS]:
        facts = _passed_by(grader, problem, f"({value})")
        if facts.tests_passed > passed:
            best, passed, total = value, facts.tests_passed, facts.tests_total
    if passed == 0 or passed < _CONSTANT_SHARE * total or passed < 2:
        return []
    return [f"constant_passes: {best} for all arguments passes {passed} of {total} asserts ({passed / total:.0%})"]

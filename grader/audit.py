"""Audit of a problem: causes that make it unsolvable, and warnings about its tests.

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
_MIN_CONSTANT_SHARE = 0.5  # share of the asserts that a constant must pass to be reported


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemAudit:
    """The result of auditing one problem."""

    causes: tuple[str, ...]  # reasons why no solution can pass
    warnings: tuple[str, ...]
    asserts: tuple[str, ...] = ()  # conditions, normalized by grader/ocaml/inspect.ml

    @property
    def solvable(self) -> bool:
        """True if no cause was found."""
        return not self.causes


def unsolvable_causes(grader: Grader, problem: Problem) -> tuple[str, ...]:
    """Return the causes of a problem without its warnings, as training needs them; raises UngradableError."""
    causes = grader.inspect(problem).causes
    return () if causes and _reference_passes(grader, problem) else causes


def audit_problem(grader: Grader, problem: Problem) -> ProblemAudit:
    """Audit one problem. Raises UngradableError if the machine failed."""
    inspection = grader.inspect(problem)
    causes, warnings = inspection.causes, [*inspection.warnings]
    if problem.solution is not None:
        facts = grader.grade(problem, problem.solution, FinishReason.STOP).facts
        if facts.verdict is Verdict.PASSED:
            warnings += [f"refuted_cause: the reference solution passes and refutes {cause}" for cause in causes]
            causes = ()
        else:
            warnings.append(_failed_reference(facts))
    if has_body(problem.signature):
        warnings.append(
            "signature_has_body: the prompt's definition seems complete, and a completion can only continue it"
        )
    warnings += _repetition_warnings(inspection)
    if not causes:
        warnings += [*_stub_warning(grader, problem), *_constant_warning(grader, problem, inspection.asserts)]
    return ProblemAudit(
        causes=causes, warnings=tuple(warnings), asserts=tuple(assertion.text for assertion in inspection.asserts)
    )


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


def _repetition_warnings(inspection: Inspection) -> list[str]:
    asserts, warnings = inspection.asserts, []
    num_covered = sum(inspection.covered_by_example)
    if num_covered:
        warnings.append(
            f"shown_asserts: {num_covered} of {len(asserts)} asserts are covered by the statement's examples"
        )
    lines: dict[str, list[int]] = {}
    for checked in asserts:
        lines.setdefault(checked.text, []).append(checked.line)
    repeated = [(text, numbers) for text, numbers in lines.items() if len(numbers) > 1]
    if repeated:
        extra = sum(len(numbers) - 1 for _, numbers in repeated)
        text, numbers = repeated[0]
        where = ", ".join(map(str, numbers))
        warnings.append(
            f"duplicate_asserts: {extra} of {len(asserts)} asserts repeat an earlier one: lines {where}: {text}"
        )
    return warnings


def _grade_body(grader: Grader, problem: Problem, body: str) -> Facts:
    """Grade the signature completed with a body; the first candidate program that parses counts."""
    facts = None
    for program in dict.fromkeys(signature_candidates(problem.signature, body)):
        facts = grader.grade(problem, program, FinishReason.STOP).facts
        if not facts.syntax_error:
            break
    assert facts is not None
    return facts


def _stub_warning(grader: Grader, problem: Problem) -> list[str]:
    facts = _grade_body(grader, problem, STUB)
    if not facts.tests_passed:
        return []
    return [f"stub_passes: a solution that only raises passes {facts.tests_passed} of {facts.tests_total} asserts"]


def _constant_warning(grader: Grader, problem: Problem, asserts: Sequence[InspectedAssert]) -> list[str]:
    """Warn if a constant passes many asserts. The constants tried are the values that the asserts expect."""
    if len(asserts) < 2:
        return []
    values = Counter(assertion.value for assertion in asserts if assertion.value and assertion.direct)
    # Asserts of another form than ``f x = value``: only running them shows if a constant passes.
    num_other_form = sum(not (assertion.value and assertion.direct) for assertion in asserts)
    candidates = [
        value for value, count in values.most_common() if count + num_other_form >= _MIN_CONSTANT_SHARE * len(asserts)
    ]
    best, passed, total = "", 0, len(asserts)
    for value in candidates[:_MAX_CONSTANTS]:
        facts = _grade_body(grader, problem, f"({value})")
        if facts.tests_passed > passed:
            best, passed, total = value, facts.tests_passed, facts.tests_total
    if passed == 0 or passed < _MIN_CONSTANT_SHARE * total or passed < 2:
        return []
    return [f"constant_passes: {best} for all arguments passes {passed} of {total} asserts ({passed / total:.0%})"]

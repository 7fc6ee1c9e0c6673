import asyncio
import dataclasses
from pathlib import Path

import pytest

from cluster.config.config import Config
from cluster.config.load import load_config
from cluster.console import View
from cluster.errors import DatasetError, UngradableError
from cluster.ledger.run_folder import RunFolder
from cluster.problems.solvable import AuditResults, audit_all, needs_audit, solvable_problems
from cluster.types import Problem
from tests.cluster.records import problem

PROBLEMS = [
    dataclasses.replace(problem(f"p{number}"), tests=f"let () = assert (f {number} = 2)") for number in range(6)
]


def config(*overrides: str) -> Config:
    return load_config(None, ["dataset=some.jsonl", *overrides], environment={})


class FakeAuditor:
    """Auditor that finds a cause in the problems ``bad`` and fails on the problems ``failing``."""

    def __init__(self, bad: tuple[str, ...] = (), failing: tuple[str, ...] = ()) -> None:
        self._bad, self._failing = bad, failing
        self.audited_ids: list[str] = []

    async def unsolvable_causes(self, problem: Problem) -> tuple[str, ...]:
        self.audited_ids.append(problem.id)
        if problem.id in self._failing:
            raise UngradableError("no machine")
        return ("tests_do_not_parse: line 1",) if problem.id in self._bad else ()


def audited(auditor: FakeAuditor, verdicts: AuditResults) -> list[str]:
    asyncio.run(audit_all(auditor, PROBLEMS, verdicts, View(), num_concurrent=2))
    return [one.id for one in solvable_problems(config(), PROBLEMS, verdicts, View())[0]]


def test_unsolvable_problems_are_excluded_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert audited(FakeAuditor(bad=("p1", "p4")), AuditResults()) == ["p0", "p2", "p3", "p5"]
    shown = " ".join(capsys.readouterr().err.split())
    assert "no solution can pass 2 of 6 problems (2 tests_do_not_parse; for example p1): they are excluded" in shown


def test_a_problem_on_which_the_machine_failed_is_kept() -> None:
    assert audited(FakeAuditor(bad=("p1",), failing=("p2",)), AuditResults()) == ["p0", "p2", "p3", "p4", "p5"]


def test_a_resumed_run_audits_only_problems_without_result(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    first = audited(FakeAuditor(bad=("p1",), failing=("p3",)), AuditResults(folder))
    # A resumed run keeps its recorded results, even if a new audit would differ, so that the split stays the same.
    later = FakeAuditor(bad=("p0", "p2"))
    verdicts = AuditResults(folder)
    assert needs_audit(config(), PROBLEMS, verdicts)
    assert audited(later, verdicts) == first
    assert later.audited_ids == ["p3"]
    assert not needs_audit(config(), PROBLEMS, AuditResults(folder))


def test_a_problem_that_was_changed_is_audited_again(tmp_path: Path) -> None:
    audited(FakeAuditor(bad=("p1",)), AuditResults(RunFolder(tmp_path)))
    changed = [dataclasses.replace(PROBLEMS[1], tests="let () = assert (f 1 = 3)")]
    assert needs_audit(config(), changed, AuditResults(RunFolder(tmp_path)))


def test_damaged_results_are_audited_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.audit.write_text('{"key": "x"\n')
    assert needs_audit(config(), PROBLEMS, AuditResults(folder))


def test_built_in_problems_and_unfiltered_data_are_not_audited() -> None:
    assert not needs_audit(config("drop_unpassable=false"), PROBLEMS, AuditResults())
    assert not needs_audit(config("dataset=builtin"), PROBLEMS, AuditResults())
    verdicts = AuditResults()
    audited(FakeAuditor(bad=("p1",)), verdicts)
    assert len(solvable_problems(config("drop_unpassable=false"), PROBLEMS, verdicts, View())[0]) == 6


def test_a_data_set_without_solvable_problem_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"no solution can pass 6 of 6 problems .*caravan audit some.jsonl"):
        audited(FakeAuditor(bad=tuple(one.id for one in PROBLEMS)), AuditResults())

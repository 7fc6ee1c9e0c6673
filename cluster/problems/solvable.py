"""Removal of problems that no solution can pass, before the split: they give no learning signal."""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from cluster.config.config import Config
from cluster.console import View
from cluster.errors import DatasetError, UngradableError
from cluster.ledger.run_folder import RunFolder
from cluster.types import Problem


class Auditor(Protocol):
    """Audits problems; implemented by grader.pool."""

    async def unsolvable_causes(self, problem: Problem) -> tuple[str, ...]:
        """Return the reasons why no solution can pass a problem; empty if none is known. Raises UngradableError."""
        ...


class AuditResults:
    """Causes by problem text, kept in the run folder so that a resumed run has the same problems and split."""

    def __init__(self, folder: RunFolder | None = None) -> None:
        self._folder = folder
        self.causes: dict[str, tuple[str, ...]] = {}  # by audit_key; empty if some solution may pass
        if folder and folder.audit.exists():
            self.causes = _read(folder.audit)

    def save(self, problems: Sequence[Problem]) -> None:
        """Write the results of these problems to the run folder, if there is one."""
        if self._folder:
            keyed = [(problem.id, audit_key(problem)) for problem in problems]
            rows = [{"id": name, "key": key, "causes": self.causes[key]} for name, key in keyed if key in self.causes]
            self._folder.write(self._folder.audit, "".join(json.dumps(row) + "\n" for row in rows))


def audit_key(problem: Problem) -> str:
    """Return a digest of everything that the audit of a problem depends on."""
    parts = (problem.prompt, problem.tests, problem.solution or "")
    return hashlib.blake2b("\0".join(parts).encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _read(path: Path) -> dict[str, tuple[str, ...]]:
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {row["key"]: tuple(row["causes"]) for row in rows}
    except (ValueError, KeyError, TypeError):
        return {}  # the file is damaged: the problems are audited again


def needs_audit(config: Config, problems: Sequence[Problem], results: AuditResults) -> bool:
    """Return True if some problem must be audited. The built-in problems are solvable; a test checks this."""
    wanted = config.data.drop_unpassable and config.data.dataset != "builtin"
    return wanted and any(audit_key(problem) not in results.causes for problem in problems)


async def audit_all(
    auditor: Auditor, problems: Sequence[Problem], results: AuditResults, view: View, *, num_concurrent: int
) -> None:
    """Audit the problems that have no result yet. A problem that the machine fails to audit gets no result and is kept."""
    todo = [problem for problem in problems if audit_key(problem) not in results.causes]
    slots = asyncio.Semaphore(num_concurrent)
    failures: list[str] = []
    with view.counting("problems audited", len(todo)) as counter:

        async def audit(problem: Problem) -> None:
            async with slots:
                try:
                    results.causes[audit_key(problem)] = await auditor.unsolvable_causes(problem)
                except UngradableError as error:
                    failures.append(str(error))
            counter.advance()

        await asyncio.gather(*(audit(problem) for problem in todo))
    if failures:
        view.warn(f"{len(failures)} problems could not be audited and are kept: {failures[0]}")
    results.save(problems)


def solvable_problems(
    config: Config, problems: Sequence[Problem], results: AuditResults, view: View
) -> tuple[list[Problem], Mapping[str, str]]:
    """Return the problems that some solution may pass, and the first cause by id for the others.

    Raises DatasetError if no problem is left.
    """
    if not config.data.drop_unpassable:
        return list(problems), {}
    found = {problem.id: results.causes.get(audit_key(problem), ()) for problem in problems}
    dropped = {name: causes[0] for name, causes in found.items() if causes}
    kept = [problem for problem in problems if problem.id not in dropped]
    if dropped:
        codes = Counter(cause.partition(":")[0] for cause in dropped.values())
        counts = ", ".join(f"{count} {code}" for code, count in codes.most_common())
        text = f"no solution can pass {len(dropped)} of {len(problems)} problems ({counts}; for example {next(iter(dropped))})"
        advice = f"`caravan audit {config.data.dataset}` shows the causes"
        if not kept:
            raise DatasetError(f"{config.data.dataset}: {text}; {advice}")
        view.warn(f"{text}: they are excluded. {advice}; data.drop_unpassable=false keeps them")
    return kept, dropped

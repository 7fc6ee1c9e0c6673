"""The problems that some solution can pass: the others teach nothing, and are dropped before the split."""

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
    """Judges problems; the real one is grader.pool."""

    async def causes_of(self, problem: Problem) -> tuple[str, ...]:
        """Why no solution can pass a problem, empty where one may; raises UngradableError."""
        ...


class Verdicts:
    """What is known of problems, by their texts: a resumed run has the same problems again, and keeps its split."""

    def __init__(self, folder: RunFolder | None = None) -> None:
        self._folder = folder
        self.causes: dict[str, tuple[str, ...]] = {}
        if folder and folder.audit.exists():
            self.causes = _read(folder.audit)

    def save(self, problems: Sequence[Problem]) -> None:
        """Keep the verdicts on these problems, where there is a run folder to keep them in."""
        if self._folder:
            keyed = [(problem.id, key_of(problem)) for problem in problems]
            rows = [{"id": name, "key": key, "causes": self.causes[key]} for name, key in keyed if key in self.causes]
            self._folder.write(self._folder.audit, "".join(json.dumps(row) + "\n" for row in rows))


def key_of(problem: Problem) -> str:
    """What a verdict depends on."""
    parts = (problem.prompt, problem.tests, problem.solution or "")
    return hashlib.blake2b("\0".join(parts).encode(errors="surrogatepass"), digest_size=16).hexdigest()


def _read(path: Path) -> dict[str, tuple[str, ...]]:
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {row["key"]: tuple(row["causes"]) for row in rows}
    except (ValueError, KeyError, TypeError):
        return {}  # damaged: the problems are audited again


def needs_audit(config: Config, problems: Sequence[Problem], verdicts: Verdicts) -> bool:
    """Whether graders are needed to tell the problems apart. The built-in ones can be passed: a test shows it."""
    wanted = config.data.drop_unpassable and config.data.dataset != "builtin"
    return wanted and any(key_of(problem) not in verdicts.causes for problem in problems)


async def audit_all(
    auditor: Auditor, problems: Sequence[Problem], verdicts: Verdicts, view: View, *, at_once: int
) -> None:
    """Judge the problems that have no verdict yet; one that the machine failed at gets none, and is kept."""
    todo = [problem for problem in problems if key_of(problem) not in verdicts.causes]
    slots = asyncio.Semaphore(at_once)
    failures: list[str] = []
    with view.counting("problems audited", len(todo)) as counter:

        async def judge(problem: Problem) -> None:
            async with slots:
                try:
                    verdicts.causes[key_of(problem)] = await auditor.causes_of(problem)
                except UngradableError as error:
                    failures.append(str(error))
            counter.advance()

        await asyncio.gather(*(judge(problem) for problem in todo))
    if failures:
        view.warn(f"{len(failures)} problems could not be audited and are kept: {failures[0]}")
    verdicts.save(problems)


def passable_problems(
    config: Config, problems: Sequence[Problem], verdicts: Verdicts, view: View
) -> tuple[list[Problem], Mapping[str, str]]:
    """The problems that some solution may pass, and by id why the others are dropped.

    Raises DatasetError where nothing is left.
    """
    if not config.data.drop_unpassable:
        return list(problems), {}
    found = {problem.id: verdicts.causes.get(key_of(problem), ()) for problem in problems}
    dropped = {name: causes[0] for name, causes in found.items() if causes}
    kept = [problem for problem in problems if problem.id not in dropped]
    if dropped:
        codes = Counter(cause.partition(":")[0] for cause in dropped.values())
        counts = ", ".join(f"{count} {code}" for code, count in codes.most_common())
        text = f"no solution can pass {len(dropped)} of {len(problems)} problems ({counts}; {next(iter(dropped))}, say)"
        advice = f"`caravan audit {config.data.dataset}` tells why"
        if not kept:
            raise DatasetError(f"{config.data.dataset}: {text}; {advice}")
        view.warn(f"{text}: they are left out. {advice}; data.drop_unpassable=false keeps them")
    return kept, dropped

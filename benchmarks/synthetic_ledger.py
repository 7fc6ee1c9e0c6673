"""Synthetic ledger of any size, written by the recorder of real runs: groups with programs, grades, messages and tokens.

The programs are reference solutions of the built-in problems with typical mistakes of models. Verdicts are random: no reader of
a ledger compares them with the program.
"""

import random
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Log
from cluster.config.load import load_config
from cluster.console import View
from cluster.ledger.outcomes import DroppedGroup
from cluster.ledger.progress import Progress
from cluster.ledger.run_folder import RunFolder
from cluster.loop.metrics import step_metrics
from cluster.problems.builtin import builtin_problems
from cluster.run.recorder import RunRecorder
from cluster.types import (
    AssertOutcome,
    Completion,
    Drop,
    DropReason,
    Facts,
    FinishReason,
    Grade,
    Group,
    Problem,
    RewardTerms,
    StepReport,
    Timestamps,
    Verdict,
)

GROUP_SIZE = 16
GROUPS_PER_STEP = 16
FILTERED_PER_STEP = 2  # dropped groups per step, in addition to GROUPS_PER_STEP
ROWS_PER_STEP = GROUP_SIZE * (GROUPS_PER_STEP + FILTERED_PER_STEP)
NEEDLE = "pairwise_disjoint"
"""The text of the search: a name that one program in NEEDLE_EVERY contains."""
NEEDLE_EVERY = 5000

_VERDICTS = (
    Verdict.PASSED,
    Verdict.WRONG,
    Verdict.TYPE_ERROR,
    Verdict.SYNTAX_ERROR,
    Verdict.RAISED,
    Verdict.INTERFACE,
)
_WORD = re.compile(r"\b(xs|acc|n|rest|x|y|s|l|lst|i|go|loop|k|v)\b")
_NUMBER = re.compile(r"\b\d+\b")


def make_ledger(path: Path, num_rows: int, log: Log) -> RunFolder:
    """Make a finished run of at least ``num_rows`` completions, with one file per step."""
    folder = RunFolder(path)
    num_steps = -(-num_rows // ROWS_PER_STEP)
    with folder.opened(load_config(None, (f"group_size={GROUP_SIZE}", "model.path=tiny"), environment={})):
        view = View()
        view.console.quiet = True
        records = RunRecorder(folder, view, lambda _: None)
        source = _Source(num_steps)
        for step in range(1, num_steps + 1):
            if step % 50 == 1:
                log(f"making a ledger: step {step:,} of {num_steps:,}")
            write_step(records, source, step)
        folder.write(folder.summary, "{}\n")
    return folder


def write_step(records: RunRecorder, source: "_Source", step: int) -> None:
    """Write the completions of one step, filtered groups included, to one file."""
    groups = [source.group(step, number) for number in range(GROUPS_PER_STEP)]
    dropped = [
        DroppedGroup(
            group=source.group(step, GROUPS_PER_STEP + number),
            group_size=GROUP_SIZE,
            drop=Drop(DropReason.NO_SIGNAL),
        )
        for number in range(FILTERED_PER_STEP)
    ]
    for one in dropped:
        records.group_dropped(one, step - 1)
    advantages = {
        completion.id: grade.reward - sum(group.rewards) / GROUP_SIZE
        for group in groups
        for completion, grade in zip(group.completions, group.grades, strict=True)
        if grade
    }
    report = StepReport(step=step, metrics=source.learner_metrics(step), advantages=advantages)
    measurements = {
        "step_seconds": 10.0,
        "learner_busy_share": 0.3,
        "samplers_busy_share": 0.9,
        "graders_busy_share": 0.2,
    }
    metrics = step_metrics(groups[:2], dropped, report, Progress(), measurements)
    records.step_done(step / 160, groups, report, metrics, {})


class _Source:
    """Draws groups. The share that passes grows over the steps."""

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._random = random.Random(7)
        self._problems = [problem for problem in builtin_problems() if problem.solution]
        self._num_programs = 0

    def learner_metrics(self, step: int) -> dict[str, float]:
        """Return a plausible report of the learner."""
        done = step / self._num_steps
        noise = self._random.gauss(0.0, 0.01)
        return {
            "loss": noise,
            "grad_norm": 0.1 + abs(noise),
            "entropy": 0.3 - 0.15 * done + noise,
            "learning_rate": 1e-5,
        }

    def group(self, step: int, number: int) -> Group:
        """Draw a group of a step."""
        group_id = f"s{step:06d}-g{number:02d}"
        problem = self._random.choice(self._problems)
        completions = [self._completion(group_id, index, step, problem) for index in range(GROUP_SIZE)]
        began = 1.7e9 + 10.0 * step
        return Group(
            id=group_id,
            problem=problem,
            completions=tuple(completions),
            grades=tuple(self._grade(step, completion.text) for completion in completions),
            timestamps=(Timestamps(requested=began, sampled=began + 8.0, graded=began + 8.1),) * GROUP_SIZE,
        )

    def _completion(self, group_id: str, index: int, step: int, problem: Problem) -> Completion:
        text = self._program(problem)
        num_tokens = len(text) // 4
        return Completion(
            id=f"{group_id}-c{index}",
            group_id=group_id,
            problem_id=problem.id,
            index=index,
            prompt_ids=tuple(range(100)),
            token_ids=tuple(self._random.choices(range(32000), k=num_tokens)),
            sampler_logprobs=tuple(self._random.choices(_LOGPROBS, k=num_tokens)),
            text=text,
            finish_reason=FinishReason.STOP,
            policy_version=step - 1,
            seconds=1.0 + num_tokens / 100,
        )

    def _program(self, problem: Problem) -> str:
        """Join two other solutions and the problem's own, and change names and numbers at random."""
        pick = self._random
        names = {
            name: f"{name}{pick.randrange(100)}" for name in ("xs", "acc", "n", "rest", "x", "y", "s", "l", "i", "go")
        }
        parts = [pick.choice(self._problems).solution or "" for _ in range(2)]
        text = "\n\n".join([*parts, problem.solution or ""])
        text = _WORD.sub(lambda found: names.get(found[0], found[0]), text)
        text = _NUMBER.sub(lambda found: str(int(found[0]) + pick.choice((0, 0, 0, 1))), text)
        self._num_programs += 1
        if self._num_programs % NEEDLE_EVERY == 0:
            text = f"let {NEEDLE} a b = List.for_all (fun x -> not (List.mem x b)) a\n\n{text}"
        return f"{text}\n(* END *)"

    def _grade(self, step: int, text: str) -> Grade:
        pick, done = self._random, step / self._num_steps
        verdict = pick.choices(
            _VERDICTS, weights=(0.1 + 0.5 * done, 0.25, 0.4 - 0.3 * done, 0.3 - 0.25 * done, 0.03, 0.02)
        )[0]
        num_tests = 8
        num_passed = (
            num_tests if verdict is Verdict.PASSED else pick.randrange(num_tests) if verdict is Verdict.WRONG else 0
        )
        outcomes = (AssertOutcome.PASSED,) * num_passed + (AssertOutcome.FAILED,) * (num_tests - num_passed)
        errors = {Verdict.TYPE_ERROR: pick.randint(1, 4)}.get(verdict, 0)
        terms = RewardTerms(
            structural=0.05,
            type_check=0.2 / (1 + errors) if verdict is not Verdict.SYNTAX_ERROR else 0.0,
            compile=0.1 if verdict in (Verdict.PASSED, Verdict.WRONG) else 0.0,
            tests=0.65 * num_passed / num_tests,
        )
        line = pick.randint(1, text.count("\n"))
        facts = Facts(
            verdict=verdict,
            asserts=outcomes,
            type_errors=errors,
            syntax_error=verdict is Verdict.SYNTAX_ERROR,
            compiled=num_passed > 0,
            type_checked=verdict in (Verdict.PASSED, Verdict.WRONG),
            has_end_marker=True,
            hit_length_limit=False,
            num_code_lines=text.count("\n"),
            quality_flags=("stub",) if pick.random() < 0.002 else (),
            diagnostics=f'File "solution.ml", line {line}: Error: This expression has type int' if errors else "",
            seconds={"compile": 0.003, "run": 0.001 + 0.002 * pick.random()},
        )
        return Grade(facts=facts, terms=terms, reward=terms.structural + terms.type_check + terms.compile + terms.tests)


_LOGPROBS: Sequence[float] = tuple(-0.001 * number * number for number in range(64))

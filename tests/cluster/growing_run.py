"""A run that grows step by step, with some completions that attack the reader's browser."""

from dataclasses import replace
from pathlib import Path

from cluster.config.load import load_config
from cluster.console import View
from cluster.ledger.outcomes import DroppedGroup
from cluster.ledger.progress import Progress
from cluster.ledger.run_folder import RunFolder
from cluster.loop.metrics import step_metrics
from cluster.run.recorder import RunRecorder
from cluster.types import CodeError, Drop, DropReason, Group, Prompt, StepReport, Verdict
from tests.cluster.records import grade, group, problem

HOSTILE = "</script><script>pwned=1</script><img src=x onerror=\"pwned=2\"><svg onload='pwned=3'> {{7*7}} ${7*7}"
EXTERNAL_CONTENT = "<link rel=stylesheet href=https://example.org/x.css><img src='https://example.org/x.png'>"
PROGRAMS = (
    (1.0, Verdict.PASSED, "let rec gcd a b = if b = 0 then a else gcd b (a mod b)\n(* END *)"),
    (0.35, Verdict.WRONG, "let gcd a b =\n  let Needle = a in\n  b\n(* END *)"),
    (0.21, Verdict.TYPE_ERROR, 'let gcd a b =\n  a ^ "needle"\n(* END *)'),
    (0.05, Verdict.SYNTAX_ERROR, f"{HOSTILE}\n{EXTERNAL_CONTENT}"),
)
HOSTILE_PROBLEM = "<b>p</b>&\"'"
PROMPTS = {
    name: Prompt(problem_id=name, text=f"<|im_start|>user\n(** {HOSTILE} *)", token_ids=(1, 2))
    for name in ("gcd", HOSTILE_PROBLEM)
}


def programs_group(step: int, problem_id: str) -> Group:
    """A group with one completion of each of PROGRAMS."""
    base = group([reward for reward, _, _ in PROGRAMS], group_id=f"s{step:06d}-{len(problem_id)}")
    grades = []
    for reward, verdict, _ in PROGRAMS:
        made = grade(reward, verdict)
        facts = made.facts
        if verdict is Verdict.TYPE_ERROR:
            errors = (CodeError(line=2, message="This is an int, not a <b>string</b>"),)
            facts = replace(facts, errors=errors, type_errors=1, diagnostics="line 2: This is an int")
        if verdict is Verdict.SYNTAX_ERROR:
            facts = replace(facts, diagnostics=f"line 1: {HOSTILE}")
        grades.append(replace(made, facts=facts))
    completions = tuple(
        replace(one, text=text, problem_id=problem_id)
        for one, (_, _, text) in zip(base.completions, PROGRAMS, strict=True)
    )
    return replace(base, problem=problem(problem_id), completions=completions, grades=tuple(grades))


class GrowingRun:
    """A run folder and its recorder."""

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        with self.folder.opened(load_config(None, environment={})):
            self.records = RunRecorder(self.folder, View(), lambda _: None, PROMPTS)
        self.num_steps = 0

    def step(self) -> None:
        """Record a step with two trained groups and a dropped one."""
        self.num_steps += 1
        step = self.num_steps
        groups = [programs_group(step, "gcd"), programs_group(step, HOSTILE_PROBLEM)]
        dropped = DroppedGroup(
            group=group([0.5, None], group_id=f"s{step:06d}-dropped"),
            group_size=3,
            drop=Drop(DropReason.STALE),
        )
        self.records.group_dropped(dropped, step - 1)
        advantages = {one.id: 0.5 - index for made in groups for index, one in enumerate(made.completions)}
        report = StepReport(step=step, metrics={"loss": 0.1, "entropy": 0.2, "grad_norm": 0.1}, advantages=advantages)
        metrics = step_metrics(groups, [dropped], report, Progress(), {"step_seconds": 1.0})
        self.records.step_done(step / 30, groups, report, metrics, {})

    def finish(self) -> None:
        """Finish the run."""
        self.folder.write(self.folder.summary, "{}\n")

"""Results of one evaluation, and their JSON form in ``evaluation.jsonl`` and ``caravan eval --out``."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cluster.types import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemResult:
    """Graded completions of one problem."""

    id: str
    difficulty: str | None
    num_completions: int
    num_passed: int
    reward: float  # mean
    verdicts: Mapping[str, int]  # completions by verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """Metrics over all graded completions of an evaluation. Fields with a default may be absent in files of older versions."""

    name: str  # "before", "after", "step 40", or the name of a model
    step: int | None = None  # training steps of the policy; None outside a run
    reward: float
    reward_standard_error: float  # standard error over problems
    pass_rate: float
    solved_once: float  # share of problems that at least one completion solves
    num_problems: int = 0  # problems with at least one graded completion
    num_completions: int = 0
    num_lost_problems: int = 0  # problems without any graded completion
    lost_problems: Sequence[str] = ()  # their ids
    num_ungradable: int = 0  # completions that could not be graded
    verdict_shares: Mapping[str, float] = field(default_factory=dict)  # key: "verdict_<name>"
    reward_terms: Mapping[str, float] = field(default_factory=dict)  # key: "reward_<term>"
    pass_at: Mapping[str, Mapping[str, float]] = field(
        default_factory=dict
    )  # key: k; "value" and the interval "low", "high"
    by_difficulty: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    by_problem: Sequence[ProblemResult] = ()

    @property
    def reward_text(self) -> str:
        """Mean reward with its standard error; "0.500 ± -" for a single problem, which has none."""
        error = "-" if self.num_problems == 1 else f"{self.reward_standard_error:.3f}"
        return f"{self.reward:.3f} ± {error}"

    def share_of(self, verdict: Verdict) -> float:
        """Return the share of completions with a verdict."""
        return self.verdict_shares.get(f"verdict_{verdict}", 0.0)

    def as_row(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return {
            **({} if self.step is None else {"step": self.step}),
            "name": self.name,
            "reward": self.reward,
            "reward_standard_error": self.reward_standard_error,
            "pass_rate": self.pass_rate,
            "solved_once": self.solved_once,
            "num_problems": self.num_problems,
            "num_completions": self.num_completions,
            "num_lost_problems": self.num_lost_problems,
            "lost_problems": list(self.lost_problems),
            "num_ungradable": self.num_ungradable,
            **self.verdict_shares,
            **self.reward_terms,
            "pass_at": self.pass_at,
            "by_difficulty": self.by_difficulty,
            "by_problem": [asdict(problem) for problem in self.by_problem],
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "EvaluationResult":
        """Read a result from a JSON object. Raises KeyError or TypeError if a required field is missing."""
        known = {item.name for item in fields(cls)} - {"by_problem", "verdict_shares", "reward_terms"}
        values = {name: row[name] for name in row if name in known}
        terms = {name: row[name] for name in row if name.startswith("reward_") and name not in known}
        return cls(
            **values,
            verdict_shares={name: share for name, share in row.items() if name.startswith("verdict_")},
            reward_terms=terms,
            by_problem=tuple(map(_problem_result, row.get("by_problem", ()))),
        )


def _problem_result(row: Mapping[str, Any]) -> ProblemResult:
    return ProblemResult(
        id=row["id"],
        difficulty=row.get("difficulty"),
        num_completions=row["num_completions"],
        num_passed=row["num_passed"],
        reward=row["reward"],
        verdicts=row.get("verdicts", {}),
    )

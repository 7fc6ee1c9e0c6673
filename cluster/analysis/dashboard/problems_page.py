"""The table of all problems of a run with statistics of their completions."""

from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlencode

from cluster.analysis.dashboard.query import Query
from cluster.analysis.report.ledger_summary import ProblemSummary

MAX_PROBLEMS = 500
ORDERS: Mapping[str, tuple[str, Callable[[ProblemSummary], tuple[float, str]]]] = {
    "passed": ("passed", lambda problem: (problem.pass_rate, problem.id)),
    "reward": ("mean reward", lambda problem: (problem.mean_reward, problem.id)),
    "best": ("best reward", lambda problem: (problem.best_reward, problem.id)),
    "completions": ("completions", lambda problem: (-problem.num_completions, problem.id)),
    "seconds": ("seconds to sample and grade", lambda problem: (-problem.mean_seconds, problem.id)),
}
"""Sort order by name -> heading of its column, and sort key of a problem."""


def problems_context(problems: Sequence[ProblemSummary], *, order: str, part: str) -> dict[str, object]:
    """Return the variables of ``problems.html``: the problems whose id contains ``part``, in an order of ORDERS."""
    matching = [problem for problem in problems if part.lower() in problem.id.lower()]
    return {
        "part": part,
        "order": order,
        "columns": [
            (name, head, f"problems?{urlencode({'order': name, 'problem': part})}")
            for name, (head, _) in ORDERS.items()
        ],
        "num_matching": len(matching),
        "num_never_passed": sum(not problem.num_passed for problem in matching),
        "problems": [
            (problem, Query(problem=problem.id).url())
            for problem in sorted(matching, key=ORDERS[order][1])[:MAX_PROBLEMS]
        ],
        "max_problems": MAX_PROBLEMS,
    }

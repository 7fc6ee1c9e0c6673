"""All problems of a run with what their completions earned, in any order."""

from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlencode

from cluster.analysis.dashboard.query import Query
from cluster.analysis.report.html import text
from cluster.analysis.report.ledger import OfProblem

MAX_SHOWN = 500
ORDERS: Mapping[str, tuple[str, Callable[[OfProblem], tuple[float, str]]]] = {
    "passed": ("passed", lambda one: (one.num_passed / one.num, one.id)),
    "reward": ("mean reward", lambda one: (one.mean_reward, one.id)),
    "best": ("best reward", lambda one: (one.best, one.id)),
    "completions": ("completions", lambda one: (-one.num, one.id)),
    "seconds": ("seconds to sample and grade", lambda one: (-one.mean_seconds, one.id)),
}


def problems_page(problems: Sequence[OfProblem], *, order: str, part: str) -> str:
    """The problems whose id holds ``part``, hardest, slowest or most tried first; ``order`` is of ORDERS."""
    wanted = [one for one in problems if part.lower() in one.id.lower()]
    shown = sorted(wanted, key=ORDERS[order][1])[:MAX_SHOWN]
    heads = "".join(
        f'<th class="n"><a href="problems?{urlencode({"order": name, "problem": part})}"'
        f"{' aria-current=true' if name == order else ''}>{label}</a></th>"
        for name, (label, _) in ORDERS.items()
    )
    lines = "".join(_line(one) for one in shown)
    never = sum(not one.num_passed for one in wanted)
    more = f" The first {MAX_SHOWN} are shown." if len(wanted) > MAX_SHOWN else ""
    return (
        '<form id="filter" action="problems" method="get"><div class="fields"><label>problem '
        f'<input type="search" name="problem" value="{text(part)}" autocomplete="off" spellcheck="false"></label>'
        f'<input type="hidden" name="order" value="{text(order)}"></div></form>'
        f'<p id="told"><b>{len(wanted):,}</b> problems, {never:,} of them never solved.{more}</p>'
        f'<table class="list"><thead><tr><th>problem</th>{heads}</tr></thead><tbody>{lines}</tbody></table>'
    )


def _line(one: OfProblem) -> str:
    cells = (
        ("passed", f"{one.num_passed / one.num:.0%}"),
        ("mean reward", f"{one.mean_reward:.3f}"),
        ("best reward", f"{one.best:.3f}"),
        ("completions", f"{one.num:,}"),
        ("seconds", f"{one.mean_seconds:.2f}"),
    )
    numbers = "".join(f'<td class="n" data-head="{head}">{cell}</td>' for head, cell in cells)
    address = text(Query(problem=one.id).address())
    return f'<tr><td data-head="problem"><a class="row" href="{address}">{text(one.id)}</a></td>{numbers}</tr>'

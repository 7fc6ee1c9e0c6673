"""The report as one page that needs nothing else: pictures are inside it, and it runs no script.

Every text of a run is escaped where it is put in, and the page's own policy forbids scripts and anything from elsewhere: what a
model writes must not be able to do anything in the browser of whoever reads it.
"""

import base64
import html
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers.ml import OcamlLexer

from cluster.analysis.report.ledger import Example, OfProblem, shortened
from cluster.analysis.report.run import RunReport
from cluster.health.epochs import as_cells
from cluster.health.judging import Finding
from cluster.health.rules import Health

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
NUM_PROBLEMS = 10

STYLE = """
:root { color-scheme: light; --ok: #2f7d32; --warn: #b26a00; --stop: #c62828; --dim: #667085; --line: #d9dee5; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2430; margin: 0 auto; max-width: 1180px; padding: 24px; }
h1 { font-size: 26px; margin: 28px 0 4px; } h2 { font-size: 19px; margin: 36px 0 10px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: 5px 10px; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.ok { color: var(--ok); } .warn { color: var(--warn); } .stop { color: var(--stop); } .dim { color: var(--dim); }
.verdict { font-weight: 600; white-space: nowrap; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(520px, 1fr)); gap: 14px; }
.pictures img { width: 100%; border: 1px solid var(--line); border-radius: 6px; }
pre { background: #f6f8fa; padding: 10px; border-radius: 6px; overflow-x: auto; font-size: 13px; margin: 6px 0; }
summary { cursor: pointer; margin: 10px 0; }
.example { border: 1px solid var(--line); border-radius: 6px; padding: 10px 14px; margin: 10px 0; }
"""
CODE_STYLE = HtmlFormatter(style="default").get_style_defs("pre")

_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)
LONGEST_LINE = 1000
"""Characters. Longer lines are no programs, and the lexer's expressions take time with the square of their length."""
_FORMATTER = HtmlFormatter(nowrap=True)

Pictures = Mapping[str, tuple[str, bytes]]  # name -> (title, SVG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """How a page names problems (by id) and completions (by a row of EXAMPLE_COLUMNS), as HTML: it may link to more of them."""

    problem: Callable[[str], str]
    completion: Callable[[Mapping[str, Any]], str]


def page(runs: Sequence[tuple[RunReport, Pictures]], compared: Pictures) -> str:
    """The whole page: each run with its pictures, and where there are several, the pictures that compare them."""
    names = ", ".join(run.name for run, _ in runs)
    parts = [f"<h1>{text(names)}</h1>"]
    if compared:
        parts.append(f"<h2>Side by side</h2>{_pictures(compared)}")
    parts += [_run(run, pictures, alone=len(runs) == 1) for run, pictures in runs]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{text(names)}: report</title><style>{STYLE}{CODE_STYLE}</style></head>\n"
        f"<body>\n{''.join(parts)}\n</body></html>\n"
    )


def text(value: object) -> str:
    """Anything as text of a page; characters that nobody sees, or that turn the direction of others, are made visible."""
    return html.escape(_UNSEEN.sub("\ufffd", str(value)), quote=True)


def code(program: str) -> str:
    """OCaml with colours."""
    return f"<pre>{chr(10).join(code_lines(shortened(program)))}</pre>"


def code_lines(program: str) -> list[str]:
    """The lines of an OCaml program with colours, each HTML that stands for itself."""
    if max(map(len, program.split("\n"))) > LONGEST_LINE:
        return text(program).split("\n")
    marked: str = highlight(_UNSEEN.sub("\ufffd", program), OcamlLexer(stripnl=False, ensurenl=False), _FORMATTER)
    return marked.removesuffix("\n").split("\n")


def sections(run: RunReport, pictures: str, names: Names) -> Iterator[tuple[str, str]]:
    """The parts of a page about a run, as id and HTML; ``pictures`` is HTML already, and empty parts are left out."""
    ledger = run.ledger
    parts = (
        ("health", f"<h2>Health</h2>{_health(run.findings)}"),
        ("pictures", f"<h2>Over the steps</h2>{pictures}" if pictures else ""),
        ("comparison", _comparison(run)),
        ("held-out", _held_out(run)),
        ("changes", _changes(run)),
        ("hardest", _problems("Hardest problems", ledger.hardest(NUM_PROBLEMS), names)),
        ("slowest", _problems("Slowest problems", ledger.slowest(NUM_PROBLEMS), names)),
        ("suspects", _examples("Hacking suspects", ledger.suspects, names)),
        ("best", _examples("Best", ledger.best, names)),
        ("worst", _examples("Worst", ledger.worst, names)),
    )
    return ((name, part) for name, part in parts if part)


def _run(run: RunReport, pictures: Pictures, *, alone: bool) -> str:
    steps = run.history.steps
    where = (
        f"{len(steps)} steps, epoch {run.history.epoch or 0.0:.2f}, {'finished' if run.is_finished else 'not finished'}"
    )
    head = [
        "" if alone else f"<h1>{text(run.name)}</h1>",
        f"<p>{verdict(run.health)} &middot; {where}</p>",
        facts(run.facts),
    ]
    names = Names(problem=text, completion=lambda row: text(row["completion_id"]))
    parts = sections(run, _pictures(pictures) if pictures else "", names)
    return "\n".join([*head, *(part for _, part in parts)])


def verdict(health: Health) -> str:
    """A verdict of health in its colour."""
    return f'<span class="verdict {_style(health)}">{health}</span>'


def facts(settings: Mapping[str, object]) -> str:
    """What a run was started with, in a line."""
    return f'<p class="dim">{" &middot; ".join(f"{text(key)} {text(value)}" for key, value in settings.items())}</p>'


def _health(findings: Sequence[Finding]) -> str:
    """What is in trouble, worst first; the rest folded away."""
    trouble = sorted((one for one in findings if one.is_trouble), key=lambda one: one.health is not Health.STOP)
    well = [one for one in findings if one.health is Health.OK]
    silent = [one.rule.id for one in findings if one.health is Health.NO_DATA]
    parts = [_verdicts(trouble)] if trouble else ["<p>No rule has found trouble.</p>"]
    if well:
        parts.append(f"<details><summary>{len(well)} rules found no trouble</summary>{_verdicts(well)}</details>")
    if silent:
        parts.append(f'<p class="dim">too early to say, or not measured: {text(", ".join(silent))}</p>')
    return "".join(parts)


def _verdicts(findings: Sequence[Finding]) -> str:
    rows = [
        (
            verdict(one.health),
            text(one.rule.id),
            text(one.judgement.evidence),
            text(one.judgement.action),
            f'<span class="dim">{text(one.rule.threshold)}<br>{text(one.rule.source)}</span>',
        )
        for one in findings
    ]
    return _table(("", "rule", "evidence", "recommended", "threshold and source"), rows)


def _comparison(run: RunReport) -> str:
    if not run.compared:
        return ""
    rows = [
        (
            text(label),
            before,
            now,
            moved,
            f'<span class="verdict {_word_style(one.is_good)}">{text(word.upper())}</span>',
        )
        for one, (label, before, now, moved, word) in zip(run.compared, as_cells(run.compared), strict=True)
    ]
    between = text(run.compared[0].change.between)
    return f"<h2>{between}</h2>" + _table(("", "before", "now", "change", "status"), rows, numbers=(1, 2, 3))


def _held_out(run: RunReport) -> str:
    rows = [
        (
            text(row["name"]),
            text(row["step"]),
            f"{row['reward']:.3f} &plusmn; {row['reward_standard_error']:.3f}",
            f"{row['pass_rate']:.1%}",
            f"{row['solved_once']:.1%}",
            text(row.get("num_lost_problems", 0)),
        )
        for row in run.held_out
    ]
    names = ("", "step", "mean reward", "passed all tests", "problems solved at least once", "problems lost")
    return f"<h2>Held-out problems</h2>{_table(names, rows, numbers=(1, 2, 3, 4, 5))}" if rows else ""


def _changes(run: RunReport) -> str:
    rows = [
        (
            text(one.step),
            text(", ".join(f"{key}={value}" for key, value in one.set.items())),
            text(one.why or "by plan"),
        )
        for one in run.changes
    ]
    return (
        f"<h2>What changed on the way</h2>{_table(('after step', 'settings', 'why'), rows, numbers=(0,))}"
        if rows
        else ""
    )


def _problems(title: str, problems: Sequence[OfProblem], names: Names) -> str:
    rows = [
        (
            names.problem(one.id),
            str(one.num),
            f"{one.num_passed / one.num:.0%}",
            f"{one.mean_reward:.3f}",
            f"{one.best:.3f}",
            f"{one.mean_seconds:.2f}",
        )
        for one in problems
    ]
    heads = ("problem", "completions", "passed", "mean reward", "best reward", "seconds to sample and grade")
    return f"<h2>{title}</h2>{_table(heads, rows, numbers=(1, 2, 3, 4, 5))}" if rows else ""


def _examples(title: str, examples: Iterable[Example], names: Names) -> str:
    shown = "".join(_example(one, names) for one in examples)
    return f"<h2>{title}</h2>{shown}" if shown else ""


def _example(example: Example, names: Names) -> str:
    row = example.row
    signs = f" &middot; {text(', '.join(row['degenerate']))}" if row["degenerate"] else ""
    messages = row["diagnostics"] or ""
    return (
        f'<div class="example"><b>{names.problem(row["problem_id"])}</b> <span class="dim">step {text(row["step"])}, '
        f"{names.completion(row)}, {text(row['fate'])}</span><br>"
        f"{text(row['verdict'])}, reward {row['total_reward']:.3f}, {text(row['tests_passed'])} of {text(row['tests_total'])} "
        f'asserts{signs} <span class="dim">({text(example.why)})</span>'
        f"{code(row['text'])}" + (f"<pre>{text(shortened(messages))}</pre>" if messages else "") + "</div>"
    )


def _pictures(pictures: Pictures) -> str:
    shown = [
        f'<img alt="{text(title)}" src="data:image/svg+xml;base64,{base64.b64encode(svg).decode()}">'
        for title, svg in pictures.values()
    ]
    return f'<div class="pictures">{"".join(shown)}</div>'


def _table(names: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of cells that are HTML already; columns of numbers stand to the right."""
    head = "".join(f"<th{' class=n' if index in numbers else ''}>{name}</th>" for index, name in enumerate(names))
    body = "".join(
        "<tr>"
        + "".join(f"<td{' class=n' if index in numbers else ''}>{cell}</td>" for index, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _style(health: Health) -> str:
    return "dim" if health is Health.NO_DATA else str(health)


def _word_style(is_good: bool | None) -> str:
    return "dim" if is_good is None else "ok" if is_good else "stop"

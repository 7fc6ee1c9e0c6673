"""What every page of the dashboard has: a head with how the run stands, links, and nothing from elsewhere."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.analysis.dashboard.overview import Overview
from cluster.analysis.dashboard.watch import Seen
from cluster.analysis.report.html import text, verdict

TABS = (("./", "Overview"), ("completions", "Completions"), ("problems", "Problems"))


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """How the run and its ledger stand while a page is made."""

    name: str  # of the run
    overview: Overview
    seen: Seen
    stepped_at: float | None  # Unix seconds


def page(state: State, *, here: str, title: str, main: str, version: str, refresh: str) -> str:
    """A whole page; ``main`` is HTML.

    ``refresh`` says what its script does where there is something new: "auto" shows it, "ask" offers it; "searching" and
    "reading" show it, and ask for the rest of an answer soon.
    """
    tabs = " ".join(
        f'<a href="{address}"{" aria-current=page" if label == here else ""}>{label}</a>' for address, label in TABS
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title>"
        '<link rel="icon" href="data:,"><link rel="stylesheet" href="static/dashboard.css">'
        '<link rel="stylesheet" href="code.css"><script src="static/refresh.js" type="module"></script>'
        '<script src="static/keys.js" type="module"></script></head>\n'
        f'<body data-version="{text(version)}" data-refresh="{refresh}">'
        f'<header id="head"><h1><a href="./">{text(state.name)}</a></h1><p id="state">{_standing(state)}</p>'
        f"<nav>{tabs}</nav></header>\n{_notices(state)}"
        f'<p id="news" role="status" hidden><button type="button">There is more now: show it <kbd>r</kbd></button></p>'
        f'<main id="main">\n{main}\n</main>\n{KEYS}</body></html>\n'
    )


KEYS = (
    '<dialog id="keys"><h2>Keys</h2><dl>'
    "<dt><kbd>j</kbd> <kbd>k</kbd></dt><dd>next and previous completion</dd>"
    "<dt><kbd>Enter</kbd></dt><dd>open it</dd>"
    "<dt><kbd>u</kbd></dt><dd>back to the list</dd>"
    "<dt><kbd>n</kbd> <kbd>p</kbd></dt><dd>next and previous page, or group of the problem</dd>"
    "<dt><kbd>/</kbd></dt><dd>search in code</dd>"
    "<dt><kbd>r</kbd></dt><dd>show what is new</dd>"
    "<dt><kbd>?</kbd></dt><dd>this</dd></dl></dialog>"
)


def _standing(state: State) -> str:
    overview = state.overview
    if overview.run is None:
        return "no step has ended yet"
    parts = [verdict(overview.run.health), f"last step {overview.last_step:,}"]
    if overview.run.is_finished:
        parts.append("finished")
    elif state.stepped_at is not None:
        ago = max(0, int(time.time() - state.stepped_at))
        parts.append(f'<time data-seconds="{ago}">{ago} s</time> ago')
    return " &middot; ".join(parts)


def _notices(state: State) -> str:
    seen = state.seen
    lines: Sequence[str] = (
        *([state.overview.trouble] if state.overview.trouble else []),
        *seen.broken[:3],
        *([f"{len(seen.broken) - 3} more files cannot be read"] if len(seen.broken) > 3 else []),
    )
    reading = "" if seen.is_whole else f"reading the ledger: {seen.columns.num_rows:,} completions so far"
    notices = "".join(f'<p class="stop">{text(line)}</p>' for line in lines)
    return f'<div id="notices">{notices}{f"<p class=dim>{reading}</p>" if reading else ""}</div>\n'


def chip(word: str | None) -> str:
    """A verdict or an outcome, coloured by its name."""
    word = word or "not_graded"
    return f'<span class="chip {text(word)}">{text(word.replace("_", " "))}</span>'


def number(value: float | None, form: str = ".3f") -> str:
    """A number, or a dash where there is none."""
    return "&ndash;" if value is None else f"{value:{form}}"

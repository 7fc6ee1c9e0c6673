"""The printed table of checks, with advice for each check that is not ok."""

from collections.abc import Sequence
from dataclasses import replace

from rich.table import Table

from cluster.console import count, output
from cluster.placement.check.checks import Check, Level

MAX_NAMED = 3  # nodes; more are counted
STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


def print_checks(checks: Sequence[Check], title: str) -> None:
    """Print a table to stdout. Nodes with the same result share a row."""
    console = output()
    table = Table(title=title, title_justify="left")
    for column in ("where", "check", "found", "wanted", ""):
        table.add_column(column, overflow="fold")
    merged = _merged(checks)
    for check in merged:
        result = f"[{STYLES[check.level]}]{check.level}[/]"
        table.add_row(*(_plain(text) for text in (check.place, check.name, check.found, check.wanted)), result)
    console.print(table)
    for check in merged:
        if check.level is not Level.OK:
            line = f"{check.level}: {check.place}: {check.name}: {check.advice}"
            console.print(line, soft_wrap=True, highlight=False, markup=False)


def _merged(checks: Sequence[Check]) -> list[Check]:
    """Merge checks that differ only in the node; a merged check has the position of its first one."""
    places: dict[Check, list[str]] = {}
    for check in checks:
        places.setdefault(replace(check, place=""), []).append(check.place)
    return [replace(check, place=_joined(nodes)) for check, nodes in places.items()]


def _joined(nodes: Sequence[str]) -> str:
    return ", ".join(nodes) if len(nodes) <= MAX_NAMED else count(len(nodes), "node")


def _plain(text: str) -> str:
    return text.replace("[", r"\[")

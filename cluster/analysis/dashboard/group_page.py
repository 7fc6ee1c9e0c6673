"""A group: its completions side by side, best first, each with what it earned, why, and its program."""

import statistics
from collections.abc import Mapping, Sequence

from cluster.analysis.dashboard.completions import Row
from cluster.analysis.dashboard.list_page import group_address
from cluster.analysis.dashboard.page import chip, number
from cluster.analysis.dashboard.query import Query
from cluster.analysis.report.html import code_lines, text

MAX_TEXT = 20_000  # characters of a program or a prompt that are shown
TERMS = (("structural", "structure"), ("type_check", "types"), ("compile", "compiles"), ("tests", "tests"))


def group_page(rows: Sequence[Row], *, prompt: str, before: str | None, after: str | None, code: str) -> str:
    """The group of these completions, at least one; ``before`` and ``after`` are other groups of its problem."""
    first = rows[0]
    rewards = [row["total_reward"] for row in rows if row["total_reward"] is not None]
    num_passed = sum(row["verdict"] == "passed" for row in rows)
    facts = [
        f"step {first['step']}",
        f"{len(rows)} completions, {num_passed} passed",
        f"mean reward {statistics.fmean(rewards):.3f}" if rewards else "not graded",
        f"{len({row['text'] for row in rows})} different texts",
    ]
    links = [
        f'<a href="{text(Query(problem=first["problem_id"]).address())}" rel="up">all of this problem</a>',
        f'<a href="{text(group_address(before, code=code))}" rel="prev">&larr; its group before</a>' if before else "",
        f'<a href="{text(group_address(after, code=code))}" rel="next">its next group &rarr;</a>' if after else "",
    ]
    asked = f"<details open><summary>prompt</summary><pre>{_lines(prompt)}</pre></details>" if prompt else ""
    ranked = sorted(rows, key=lambda row: (row["total_reward"] is None, -(row["total_reward"] or 0.0)))
    same_as: dict[str, str] = {}
    cards = "".join(_card(row, same_as) for row in ranked)
    return (
        f'<h2>{text(first["problem_id"])} <span class="dim">{text(first["group_id"])}</span></h2>'
        f'<p>{" &middot; ".join(facts)}</p><p class="pager">{" ".join(filter(None, links))}</p>'
        f'<div class="beside">{_bars(ranked)}{asked}</div><div class="group" data-needle="{text(code)}">{cards}</div>'
    )


def _bars(rows: Sequence[Row]) -> str:
    """Rewards and advantages in a line each, to jump from."""
    lines = "".join(
        f'<tr><td><a href="#{text(row["completion_id"])}">{text(_short(row))}</a></td><td>{chip(row["verdict"])}</td>'
        f'<td class="n">{number(row["total_reward"])}</td>'
        f'<td><meter max="1" value="{row["total_reward"] or 0.0:.3f}"></meter></td>'
        f'<td class="n">{number(row["advantage"], "+.3f")}</td><td>{chip(row["fate"])}</td></tr>'
        for row in rows
    )
    heads = "<tr><th></th><th>outcome</th><th class=n>reward</th><th></th><th class=n>advantage</th><th>fate</th></tr>"
    return (
        f'<details open><summary>rewards and advantages</summary><table class="bars">{heads}{lines}</table></details>'
    )


def _card(row: Row, same_as: dict[str, str]) -> str:
    """One completion; ``same_as`` says which one had a text first."""
    program, name = row["text"] or "", row["completion_id"]
    first = same_as.setdefault(program, name)
    if first != name:
        body = f'<p class="dim">the same text as <a href="#{text(first)}">{text(_short_id(first))}</a></p>'
    else:
        body = _program(program, row["errors"] or ())
    messages = row["diagnostics"] or ""
    shown = f'<pre class="messages">{_lines(messages)}</pre>' if messages else ""
    if shown and row["errors"]:  # which stand in the program already
        shown = f"<details><summary>messages</summary>{shown}</details>"
    return (
        f'<article class="completion" id="{text(name)}" tabindex="-1"><header><b>{text(_short(row))}</b> {chip(row["verdict"])} '
        f'<b class="n">{number(row["total_reward"])}</b> <span class="n dim">advantage {number(row["advantage"], "+.3f")}</span>'
        f"</header>{_terms(row)}{_asserts(row)}{body}{shown}"
        f'<p class="dim small">{" &middot; ".join(map(text, _details(row)))}</p></article>'
    )


def _terms(row: Row) -> str:
    if row["verdict"] is None:
        return ""
    told = " + ".join(f"{label} {row[name]:.3f}" for name, label in TERMS)
    return f'<p class="dim small">{told}</p>'


def _asserts(row: Row) -> str:
    """A mark per assert."""
    outcomes, given = row["asserts"] or (), row["shown"] or ()
    marks = "".join(
        f'<i class="assert {text(outcome)}" title="assert {number_}: {text(outcome.replace("_", " "))}'
        f'{", given away by the statement" if number_ <= len(given) and given[number_ - 1] else ""}"></i>'
        for number_, outcome in enumerate(outcomes, start=1)
    )
    total = row["tests_total"]
    return f'<p class="asserts">{marks} {row["tests_passed"]} of {total} asserts</p>' if total else ""


def _program(program: str, errors: Sequence[Mapping[str, object]]) -> str:
    """The program with its line numbers, and what the compiler says of a line below it."""
    complaints: dict[int, list[str]] = {}
    for error in errors:
        complaints.setdefault(int(str(error["line"])), []).append(str(error["message"]))
    lines = []
    for line_number, line in enumerate(code_lines(_cut(program)), start=1):
        said = complaints.get(line_number, [])
        lines.append(f'<span class="line{" bad" if said else ""}" data-n="{line_number}">{line}</span>')
        lines += [f'<span class="complaint">{text(one)}</span>' for one in said]
    return f'<pre class="program">{"".join(lines)}</pre>'


def _details(row: Row) -> list[str]:
    """What else is known, in words."""
    logprobs = row["sampler_logprobs"] or ()
    spans = row["version_spans"] or ()
    told = [
        f"{row['fate']}: {row['reason']}" if row["reason"] else row["fate"],
        f"{len(row['token_ids'] or ())} tokens",
        f"mean log-probability {statistics.fmean(logprobs):.3f}" if logprobs else "",
        f"ended by {row['finish_reason']}" if row["finish_reason"] else "",
        "no END marker" if row["has_end_marker"] is False else "",
        f"{row['type_errors']} type errors" if row["type_errors"] else "",
        f"looks {', '.join(row['degenerate'])}" if row["degenerate"] else "",
        f"policy {row['policy_version']}" if row["policy_version"] is not None else "",
        "policies " + ", ".join(f"{one['policy_version']} ({one['num_tokens']} tokens)" for one in spans)
        if spans
        else "",
        f"temperature {row['temperature']:g}" if row["temperature"] is not None else "",
        f"sampled in {row['sampling_seconds']:.2f} s" if row["sampling_seconds"] is not None else "",
        f"graded in {row['grading_seconds']:.3f} s" if row["grading_seconds"] is not None else "",
    ]
    return [one for one in told if one]


def _lines(told: str) -> str:
    return text(_cut(told))


def _cut(told: str) -> str:
    return told if len(told) <= MAX_TEXT else f"{told[:MAX_TEXT]}\n(* ... {len(told) - MAX_TEXT} more characters *)"


def _short(row: Row) -> str:
    return _short_id(row["completion_id"])


def _short_id(completion_id: str) -> str:
    """The last part of an id: "c3" of "s000012-g03-c3"."""
    return completion_id.rpartition("-")[2]

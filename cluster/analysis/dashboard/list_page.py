"""The list of completions: a form that narrows it, lines that open their group, pages."""

from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode

from cluster.analysis.dashboard.completions import Row
from cluster.analysis.dashboard.page import chip, number
from cluster.analysis.dashboard.query import ORDERS, OUTCOMES, VERDICTS, Query
from cluster.analysis.dashboard.search import Found
from cluster.analysis.report.html import text

PAGE_ROWS = 50
PREVIEW = 160  # characters of a text in the list
MAX_SUGGESTED = 300  # problem ids that the form suggests


def form(query: Query, counts: Mapping[str, int], problems: Sequence[str]) -> str:
    """What narrows the list; ``counts`` are completions by verdict."""
    verdicts = [(one, f"{counts.get(one, 0):,}") for one in VERDICTS if counts.get(one) or one in query.verdicts]
    outcomes = "".join(_chosen("verdict", one, num, query.verdicts) for one, num in verdicts)
    outcomes = "".join(_chosen("fate", one, "", query.outcomes) for one in OUTCOMES)
    suggested = "".join(f'<option value="{text(one)}">' for one in problems[:MAX_SUGGESTED])
    orders = "".join(
        f'<option value="{name}"{" selected" if name == query.order else ""}>{label}</option>'
        for name, label in ORDERS.items()
    )
    return (
        '<form id="filter" action="completions" method="get"><div class="fields">'
        f"{_field('code', 'code holds', query.code, kind='search', size=28)}"
        f"{_box('case', '1', 'Aa', query.matches_case, 'upper and lower case differ')}"
        f"{_field('problem', 'problem', query.problem, kind='search', size=22, more=' list=problems')}"
        f'<datalist id="problems">{suggested}</datalist>'
        f"{_range('reward', query.min_reward, query.max_reward)}{_range('step', query.min_step, query.max_step)}"
        f'<label>order <select name="order">{orders}</select></label></div>'
        f'<div class="boxes" role="group" aria-label="outcome">{outcomes}</div>'
        f'<div class="boxes" role="group" aria-label="fate">{outcomes}'
        f"{_box('signs', '1', 'looks like no answer', query.has_signs, 'repetitive, mostly prose, a stub, ...')}"
        '<button type="submit">show</button> <a href="completions">all</a></div></form>'
    )


def listing(query: Query, found: Found, rows: Sequence[Row], num_pages: int) -> str:
    """The lines of a page, under how many there are."""
    if found.is_complete:
        told = f"<b>{len(found.rows):,}</b> completions"
    else:
        share = found.num_searched / found.num_candidates
        told = (
            f"<b>{len(found.rows):,}</b> completions so far; looked into {found.num_searched:,} of {found.num_candidates:,} "
            f'<progress max="1" value="{share:.3f}"></progress>'
        )
    lines = "".join(_line(query, row) for row in rows)
    heads = "".join(
        f"<th{style}>{head}</th>"
        for head, style in (
            *(("step", " class=n"), ("problem", ""), ("outcome", ""), ("reward", " class=n")),
            *(("advantage", " class=n"), ("asserts", " class=n"), ("fate", ""), ("code", "")),
        )
    )
    table = f'<table class="list"><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>'
    empty = "" if rows or not found.is_complete else "<p>Nothing is like that.</p>"
    return f'<p id="told">{told}</p>{table if rows else empty}{_pager(query, num_pages)}'


def group_address(group_id: str, completion_id: str = "", code: str = "") -> str:
    """Where a group is shown, at one of its completions."""
    told = urlencode({"id": group_id} | ({"code": code} if code else {}))
    return f"group?{told}{f'#{quote(completion_id)}' if completion_id else ''}"


def _line(query: Query, row: Row) -> str:
    address = group_address(row["group_id"], row["completion_id"], query.code)
    problem = query.address(problem=row["problem_id"], page=1)
    asserts = "" if row["tests_total"] is None else f"{row['tests_passed']}/{row['tests_total']}"
    advantage, reward = row["advantage"], row["total_reward"]
    reason = f' <span class="dim">{text(row["reason"])}</span>' if row["reason"] else ""
    return (
        f'<tr><td class="n" data-head="step">{row["step"]}</td>'
        f'<td data-head="problem"><a href="{text(problem)}">{text(row["problem_id"])}</a></td>'
        f'<td data-head="outcome">{chip(row["verdict"])}</td><td class="n" data-head="reward">{number(reward)}</td>'
        f'<td class="n {_sign(advantage)}" data-head="advantage">{number(advantage, "+.2f")}</td>'
        f'<td class="n" data-head="asserts">{asserts}</td>'
        f'<td data-head="fate">{chip(row["fate"])}{reason}</td>'
        f'<td class="code"><a class="row" href="{text(address)}">{_preview(row["text"] or "", query)}</a></td></tr>'
    )


def _preview(program: str, query: Query) -> str:
    """The part of a text that was searched for, or its beginning, in one line."""
    if not program.strip():
        return '<span class="dim">empty</span>'
    if not query.code:
        line = " ".join(program[: 2 * PREVIEW].split())
        return text(line[:PREVIEW])
    whole, needle = (program, query.code) if query.matches_case else (program.lower(), query.code.lower())
    at = max(0, whole.find(needle))
    begin, end = max(0, at - PREVIEW // 3), at + len(query.code)
    before, after = program[begin:at], program[end : end + PREVIEW]
    return f"{text(_flat(before))}<mark>{text(_flat(program[at:end]))}</mark>{text(_flat(after))}"


def _flat(part: str) -> str:
    return " ".join(part.replace("\n", " ⏎ ").split(" "))


def _pager(query: Query, num_pages: int) -> str:
    if num_pages < 2:
        return ""
    before, after = query.of_page(query.page - 1), query.of_page(query.page + 1)
    parts = [
        f'<a rel="prev" href="{text(before.address())}">&larr; previous</a>' if query.page > 1 else "",
        f"page {query.page:,} of {num_pages:,}",
        f'<a rel="next" href="{text(after.address())}">next &rarr;</a>' if query.page < num_pages else "",
    ]
    return f'<p class="pager">{" ".join(parts)}</p>'


def _field(name: str, label: str, value: str, *, kind: str, size: int, more: str = "") -> str:
    return (
        f'<label>{label} <input type="{kind}" name="{name}" value="{text(value)}" size="{size}"{more} '
        'autocomplete="off" spellcheck="false"></label>'
    )


def _range(name: str, least: float | None, most: float | None) -> str:
    ends = "&ndash;".join(
        f'<input inputmode="decimal" name="{end}_{name}" value="{"" if value is None else f"{value:g}"}" size="4" '
        f'aria-label="{label} {name}" autocomplete="off">'
        for end, label, value in (("min", "lowest", least), ("max", "highest", most))
    )
    return f'<span class="range">{name} {ends}</span>'


def _box(name: str, value: str, label: str, checked: bool, title: str) -> str:
    return (
        f'<label class="box" title="{title}"><input type="checkbox" name="{name}" value="{value}"'
        f"{' checked' if checked else ''}> {label}</label>"
    )


def _chosen(name: str, word: str, num: str, chosen: Sequence[str]) -> str:
    return (
        f'<label class="box"><input type="checkbox" name="{name}" value="{word}"{" checked" if word in chosen else ""}> '
        f'{chip(word)} <span class="dim">{num}</span></label>'
    )


def _sign(value: float | None) -> str:
    return "" if value is None or value == 0 else "ok" if value > 0 else "stop"

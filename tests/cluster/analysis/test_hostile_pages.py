"""Pages and report of a run in which all texts are hostile."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from jinja2 import UndefinedError
from starlette.testclient import TestClient

from cluster.analysis.dashboard.server import application
from cluster.analysis.render import highlighted_lines, render
from cluster.analysis.report.page import report_page
from cluster.analysis.report.run import read_report
from cluster.ledger.columns import read_columns
from cluster.ledger.run_folder import RunFolder
from tests.cluster.analysis.html_page import HtmlPage
from tests.cluster.growing_run import GrowingRun

PAYLOAD = "\"'></pre></style></title></script><script>x=1</script><img src=x onerror='x=2'>{{ 7*7 }}{% raw %}&\u202e\u200b\xad"
HIDDEN = ("\u202e", "\u200b", "\xad")
VISIBLE = PAYLOAD[2 : PAYLOAD.index("onerror")]  # without the quotes, which messages escape with backslashes

PAGE_TAGS = {
    *("html", "head", "meta", "title", "link", "script", "body", "header", "nav", "main", "section", "article"),
    *("h1", "h2", "p", "div", "span", "b", "i", "br", "a", "pre", "mark", "time", "kbd", "button", "dialog"),
    *("table", "thead", "tbody", "tr", "th", "td", "dl", "dt", "dd", "details", "summary", "meter", "progress"),
    *("form", "label", "input", "datalist", "option", "select", "picture", "source", "img", "style"),
}
URL_STARTS = ("./", "#", "completions", "problems", "group?id=", "static/", "code.css", "picture/", "data:")


def hostile(value: Any) -> Any:
    """Return the value with the payload appended to every text."""
    if isinstance(value, str):
        return value + PAYLOAD
    if isinstance(value, list):
        return [hostile(item) for item in value] or value
    if isinstance(value, dict):
        return {key: hostile(item) for key, item in value.items()}
    return value


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    growing = GrowingRun(tmp_path_factory.mktemp("runs") / "run<i>\"'&")
    for _ in range(3):
        growing.step()
    folder = growing.folder
    for path in folder.rollout_files():
        table = pq.read_table(path)
        rows = [hostile(row) for row in table.to_pylist()]
        for row in rows:
            row |= {"reason": PAYLOAD, "degenerate": [PAYLOAD], "finish_reason": PAYLOAD, "asserts": [PAYLOAD]}
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    config = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    config["model"]["path"] = PAYLOAD
    folder.config.write_text(yaml.safe_dump(config), encoding="utf-8")
    change = {"rollout.temperature": PAYLOAD, PAYLOAD: 1}
    evaluation = {"reward": 0.5, "reward_standard_error": 0.1, "pass_rate": 0.5, "solved_once": 0.5}
    folder.append_json(folder.phases, {"step": 2, "set": change})
    folder.append_json(
        folder.health, {"step": 2, "rule": PAYLOAD, "health": "warn", "evidence": PAYLOAD, "set": change}
    )
    folder.append_json(folder.evaluation, {"step": 2, "name": PAYLOAD, "num_lost_problems": PAYLOAD, **evaluation})
    (folder.rollouts / f"step-000009-{PAYLOAD.replace('/', '')}.parquet").write_bytes(b"PAR1 cut")
    return folder


@pytest.fixture(scope="module")
def client(run: RunFolder) -> Iterator[TestClient]:
    with TestClient(application(run.path), base_url="http://localhost") as client:
        deadline = time.monotonic() + 60
        while 'id="suspects"' not in client.get("/").text:  # the overview follows the ledger
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield client


def assert_harmless(html: str) -> HtmlPage:
    """Check that the page has no element, attribute or address from a payload, and no hidden character."""
    page = HtmlPage(html)
    assert {tag for tag, _ in page.tags} <= PAGE_TAGS
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("href", "src", "srcset", "action"):
            assert (attributes.get(name) or "./").startswith(URL_STARTS)
        if tag == "script":
            assert (attributes["src"] or "").startswith("static/")
        if tag in ("script", "img"):
            assert attributes["src"] != "x"
    assert not [character for character in HIDDEN if character in html]
    return page


def test_every_page_of_the_dashboard_shows_hostile_texts_and_is_harmless(client: TestClient, run: RunFolder) -> None:
    group_id = str(read_columns(run.rollout_files()[:1]).words["group_id"][0])
    payload = quote(PAYLOAD)
    for address, status, num_payloads in (
        ("/", 200, 20),
        ("/completions", 200, 33 * 4),
        (f"/completions?code={payload}&case=1", 200, 33 * 4),
        (f"/completions?problem={payload}&min_reward=0.1", 200, 20),
        (f"/completions?min_reward={payload}", 400, 1),
        ("/problems", 200, 3),
        (f"/problems?problem={payload}", 200, 3),
        (f"/problems?order={payload}", 400, 1),
        (f"/group?id={payload}", 404, 1),
        (f"/group?id={quote(group_id)}&code={payload}", 200, 4 * 6),
    ):
        response = client.get(address)
        assert response.status_code == status, address
        page = assert_harmless(response.text)
        assert page.text.count(VISIBLE) >= num_payloads, address


def test_the_report_shows_hostile_texts_and_is_harmless(run: RunFolder, tmp_path: Path) -> None:
    for path in run.rollouts.glob("step-000009-*"):
        path.rename(tmp_path / "cut")  # a report refuses a file that it cannot read
    html = report_page([(read_report(run.path), {PAYLOAD: (PAYLOAD, b"<svg>")})], {})
    assert assert_harmless(html).text.count(VISIBLE) >= 20


def test_a_template_with_a_missing_value_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="'state' is undefined"):
        render("error.html", tab="", title="", version="", refresh="ask", message="")


def test_long_lines_are_not_highlighted_and_every_line_is_escaped() -> None:
    (digits, comment) = highlighted_lines(f"{20_000 * '1'}\n(* <b> *)")
    assert digits == 20_000 * "1"
    assert comment == "(* &lt;b&gt; *)"
    assert "<span" in highlighted_lines("let a = 1")[0]
    assert "<b>" not in "".join(highlighted_lines('let a = "<b>"'))

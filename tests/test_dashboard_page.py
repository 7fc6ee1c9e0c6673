"""The dashboard in a real headless browser with a real server."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster.growing_run import HOSTILE, HOSTILE_PROBLEM, GrowingRun

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
PER_STEP = 11  # completions: two groups of four, and three of a dropped group
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(CHROMIUMS)} is installed; on Debian: apt-get install -y chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> GrowingRun:
    growing = GrowingRun(tmp_path_factory.mktemp("runs") / "run<i>")
    for _ in range(12):
        growing.step()
    return growing


@pytest.fixture(scope="module")
def address(run: GrowingRun) -> Iterator[str]:
    command = [
        sys.executable,
        "-c",
        "from cluster.cli.main import run; run()",
        "dashboard",
        str(run.folder.path),
        "--port",
        "0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.send_signal(2)
        assert server.wait(timeout=120) == 0


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page that must not log errors, request other addresses, open dialogs or run a completion."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(60_000)
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if is_problem(message) else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.on(
        "request",
        lambda request: None if request.url.startswith((address, "data:")) else problems.append(request.url),
    )
    page.goto(address)
    yield page
    assert page.evaluate("typeof pwned") == "undefined"
    assert problems == []
    page.close()


def is_problem(message: Any) -> bool:
    """Return True for errors and warnings, except the 400 that answers an invalid value in the form."""
    return message.type in ("error", "warning") and "400 (Bad Request)" not in message.text


def lines(page: Any) -> Any:
    return page.locator("table.list tbody tr")


def until(holds: Callable[[], bool]) -> None:
    """Wait for a condition; the page's policy forbids the browser's own waiting."""
    ends = time.monotonic() + 60.0
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.05)


def wait_for_count(page: Any, number: int) -> None:
    """Wait until the page lists ``number`` completions."""
    page.locator("#count b", has_text=re.compile(f"^{number}$")).wait_for()


def test_the_overview_follows_the_run_and_keeps_its_scroll_position(page: Any, run: GrowingRun) -> None:
    page.locator("#state", has_text=f"last step {run.num_steps}").wait_for()
    plots = "[...document.querySelectorAll('.plots img')].slice(0, 2)"
    until(lambda: page.evaluate(f"{plots}.every((one) => one.naturalWidth > 100)"))
    assert page.locator(".plots img").first.get_attribute("alt") == "Reward"
    page.locator("#hardest").wait_for()  # the ledger has been read
    page.locator("#health summary").click()
    page.evaluate("scrollTo(0, 250); plot = document.querySelector('.plots img')")
    before = page.evaluate("plot.src")
    run.step()
    page.locator("#state", has_text=f"last step {run.num_steps}").wait_for()
    assert page.evaluate("plot.isConnected && plot.src") not in (
        before,
        False,
    )  # the same element, another image
    assert page.evaluate("scrollY") == 250
    assert page.evaluate("document.querySelector('#health details').open")
    run.finish()
    page.locator("#state", has_text="finished").wait_for()


def test_filters_are_part_of_the_url(page: Any, address: str, run: GrowingRun) -> None:
    num_steps = run.num_steps
    page.get_by_role("link", name="Completions").click()
    wait_for_count(page, num_steps * PER_STEP)
    page.locator("input[name=verdict][value=wrong]").check()
    wait_for_count(page, 3 * num_steps)
    page.locator("input[name=problem]").fill("GC")  # a part of an id
    wait_for_count(page, num_steps)
    page.locator("input[name=min_step]").fill(str(num_steps - 1))
    wait_for_count(page, 2)
    assert "verdict=wrong" in page.url
    assert f"min_step={num_steps - 1}" in page.url
    assert lines(page).first.inner_text().startswith(f"{num_steps}\t")
    page.locator("input[name=min_step]").fill("many")
    page.get_by_text("min_step: 'many' is not a number").wait_for()
    page.locator("input[name=min_step]").fill("")
    wait_for_count(page, num_steps)
    page.locator("input[name=min_step]").fill(str(num_steps - 1))
    wait_for_count(page, 2)
    page.go_back()
    wait_for_count(page, num_steps)
    assert page.locator("input[name=min_step]").input_value() == ""
    page.reload()  # the URL has all filters
    wait_for_count(page, num_steps)
    page.goto(f"{address}completions?fate=stale&verdict=not_graded&order=oldest")
    wait_for_count(page, num_steps)
    page.goto(f"{address}completions?min_reward=0.3&max_reward=0.4")
    wait_for_count(page, 2 * num_steps)
    page.locator("select[name=order]").select_option("oldest")
    page.wait_for_url("**order=oldest**")
    until(lambda: lines(page).first.inner_text().startswith("1\t"))


def test_code_is_searched_with_and_without_case(page: Any, run: GrowingRun) -> None:
    page.keyboard.press("/")
    lines(page).first.wait_for()
    page.keyboard.press("/")
    page.keyboard.type("needle")
    wait_for_count(page, 4 * run.num_steps)
    assert set(page.locator("table.list mark").all_inner_texts()) == {"needle", "Needle"}
    page.locator("input[name=case]").check()
    wait_for_count(page, 2 * run.num_steps)
    assert set(page.locator("table.list mark").all_inner_texts()) == {"needle"}
    page.locator("input[name=code]").fill("nowhere at all")
    page.get_by_text("No completion matches").wait_for()


def test_a_group_shows_its_completions_and_leads_back_to_the_list(page: Any, run: GrowingRun) -> None:
    page.goto(f"{page.url}completions?code=needle&problem=gcd")
    wait_for_count(page, 2 * run.num_steps)
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/group?**")
    cards = page.locator("article.completion")
    assert cards.count() == 4
    assert cards.locator("header b.n").all_inner_texts() == ["1.000", "0.350", "0.210", "0.050"]
    tops = [cards.nth(index).bounding_box()["y"] for index in range(2)]
    assert tops[0] == tops[1]
    assert "advantage +0.500" in cards.first.inner_text()
    assert cards.nth(2).locator(".line.bad").get_attribute("data-n") == "2"
    assert "not a <b>string</b>" in cards.nth(2).inner_text()
    assert cards.first.locator("pre span.k, pre span.kr, pre span.kd").count() > 0  # keywords have a colour
    assert page.evaluate("[...CSS.highlights.get('found')].map(String)") == ["Needle", "needle"]
    page.keyboard.press("p")
    page.locator("h2", has_text=f"s{run.num_steps - 1:06d}").wait_for()
    page.go_back()
    page.keyboard.press("u")
    page.wait_for_url("**/completions?code=needle&problem=gcd")
    wait_for_count(page, 2 * run.num_steps)


def test_completions_are_shown_and_never_run(page: Any, address: str, run: GrowingRun) -> None:
    for path in ("completions?verdict=syntax_error", "group?id=s000012-3", "problems", ""):
        page.goto(f"{address}{path}")
        page.locator("#hardest, table.list, article").first.wait_for()
        assert (
            page.locator("#main script, #main svg, #main iframe, #main link, #main [onerror], #main [onload]").count()
            == 0
        )
        assert page.locator("#main img:not(.plots img)").count() == 0
    page.goto(f"{address}group?id=s000012-3")
    assert HOSTILE in page.locator("article.completion pre.program").last.inner_text()
    page.goto(f"{address}problems")
    page.get_by_role("link", name=HOSTILE_PROBLEM, exact=True).click()
    wait_for_count(page, 4 * run.num_steps)
    assert page.locator("input[name=problem]").input_value() == HOSTILE_PROBLEM
    assert page.locator("h1").inner_text() == "run<i>"


def test_a_list_changes_only_on_request(page: Any, address: str, run: GrowingRun) -> None:
    page.goto(f"{address}completions?problem=gcd")
    before = 4 * run.num_steps
    wait_for_count(page, before)
    run.step()
    page.get_by_role("button", name="New results").wait_for()
    wait_for_count(page, before)
    page.keyboard.press("r")
    wait_for_count(page, before + 4)
    assert lines(page).first.inner_text().startswith(f"{run.num_steps}\t")


def test_a_narrow_screen_needs_no_horizontal_scrolling(page: Any, address: str) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    for path in ("", "completions", "problems", "group?id=s000012-3"):
        page.goto(f"{address}{path}")
        page.locator("main").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path

"""The dashboard as a person uses it: a real server, a real browser without a window."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster.made_dashboard import HOSTILE, HOSTILE_PROBLEM, GrowingRun

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")
PER_STEP = 11  # completions: two groups of four, and three of one that was dropped
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if path is None:
        pytest.skip(f"none of {', '.join(CHROMIUMS)} is here; on Debian: apt-get install -y chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> GrowingRun:
    made = GrowingRun(tmp_path_factory.mktemp("runs") / "run<i>")
    for _ in range(12):
        made.step()
    return made


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
        assert server.wait(timeout=30) == 0


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page that must not complain, ask elsewhere, open dialogs or run what a completion says."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(60_000)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if is_complaint(message) else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.on(
        "request",
        lambda request: None if request.url.startswith((address, "data:")) else complaints.append(request.url),
    )
    page.goto(address)
    yield page
    assert page.evaluate("typeof pwned") == "undefined"
    assert complaints == []
    page.close()


def is_complaint(message: Any) -> bool:
    """Whether the console says that something is wrong; what is refused by the form is for the person to put right."""
    return message.type in ("error", "warning") and "400 (Bad Request)" not in message.text


def lines(page: Any) -> Any:
    return page.locator("table.list tbody tr")


def until(holds: Callable[[], bool]) -> None:
    """Wait for something; the page's own policy does not let the browser wait for it."""
    ends = time.monotonic() + 60.0
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.05)


def told(page: Any, number: int) -> None:
    """Wait until so many completions are found."""
    page.locator("#told b", has_text=re.compile(f"^{number}$")).wait_for()


def test_the_overview_keeps_up_with_the_run_and_does_not_move(page: Any, run: GrowingRun) -> None:
    page.locator("#state", has_text=f"last step {run.num_steps}").wait_for()
    pictures = "[...document.querySelectorAll('.pictures img')].slice(0, 2)"
    until(lambda: page.evaluate(f"{pictures}.every((one) => one.naturalWidth > 100)"))
    assert page.locator(".pictures img").first.get_attribute("alt") == "Reward"
    page.locator("#hardest").wait_for()  # the ledger has been read
    page.locator("#health summary").click()
    page.evaluate("scrollTo(0, 250); picture = document.querySelector('.pictures img')")
    before = page.evaluate("picture.src")
    run.step()
    page.locator("#state", has_text=f"last step {run.num_steps}").wait_for()
    assert page.evaluate("picture.isConnected && picture.src") not in (
        before,
        False,
    )  # the same element, another picture
    assert page.evaluate("scrollY") == 250
    assert page.evaluate("document.querySelector('#health details').open")
    run.finish()
    page.locator("#state", has_text="finished").wait_for()


def test_completions_are_filtered_and_the_address_says_how(page: Any, address: str, run: GrowingRun) -> None:
    num_steps = run.num_steps
    page.get_by_role("link", name="Completions").click()
    told(page, num_steps * PER_STEP)
    page.locator("input[name=verdict][value=wrong]").check()
    told(page, 3 * num_steps)
    page.locator("input[name=problem]").fill("GC")  # a part of an id
    told(page, num_steps)
    page.locator("input[name=min_step]").fill(str(num_steps - 1))
    told(page, 2)
    assert "verdict=wrong" in page.url
    assert f"min_step={num_steps - 1}" in page.url
    assert lines(page).first.inner_text().startswith(f"{num_steps}\t")
    page.locator("input[name=min_step]").fill("many")
    page.get_by_text("min_step: 'many' is not a number").wait_for()
    page.locator("input[name=min_step]").fill("")
    told(page, num_steps)
    page.locator("input[name=min_step]").fill(str(num_steps - 1))
    told(page, 2)
    page.go_back()
    told(page, num_steps)
    assert page.locator("input[name=min_step]").input_value() == ""
    page.reload()  # the address says it all
    told(page, num_steps)
    page.goto(f"{address}completions?fate=stale&verdict=not_graded&order=oldest")
    told(page, num_steps)
    page.goto(f"{address}completions?min_reward=0.3&max_reward=0.4")
    told(page, 2 * num_steps)
    page.locator("select[name=order]").select_option("oldest")
    page.wait_for_url("**order=oldest**")
    until(lambda: lines(page).first.inner_text().startswith("1\t"))


def test_code_is_searched_with_and_without_case(page: Any, run: GrowingRun) -> None:
    page.keyboard.press("/")
    lines(page).first.wait_for()
    page.keyboard.press("/")
    page.keyboard.type("needle")
    told(page, 4 * run.num_steps)
    assert set(page.locator("table.list mark").all_inner_texts()) == {"needle", "Needle"}
    page.locator("input[name=case]").check()
    told(page, 2 * run.num_steps)
    assert set(page.locator("table.list mark").all_inner_texts()) == {"needle"}
    page.locator("input[name=code]").fill("nowhere at all")
    page.get_by_text("Nothing is like that").wait_for()


def test_a_group_stands_side_by_side_and_the_way_back_is_there(page: Any, run: GrowingRun) -> None:
    page.goto(f"{page.url}completions?code=needle&problem=gcd")
    told(page, 2 * run.num_steps)
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
    told(page, 2 * run.num_steps)


def test_what_a_completion_says_is_shown_and_not_done(page: Any, address: str, run: GrowingRun) -> None:
    for where in ("completions?verdict=syntax_error", "group?id=s000012-3", "problems", ""):
        page.goto(f"{address}{where}")
        page.locator("#hardest, table.list, article").first.wait_for()
        assert (
            page.locator("#main script, #main svg, #main iframe, #main link, #main [onerror], #main [onload]").count()
            == 0
        )
        assert page.locator("#main img:not(.pictures img)").count() == 0
    page.goto(f"{address}group?id=s000012-3")
    assert HOSTILE in page.locator("article.completion pre.program").last.inner_text()
    page.goto(f"{address}problems")
    page.get_by_role("link", name=HOSTILE_PROBLEM, exact=True).click()
    told(page, 4 * run.num_steps)
    assert page.locator("input[name=problem]").input_value() == HOSTILE_PROBLEM
    assert page.locator("h1").inner_text() == "run<i>"


def test_a_list_that_is_read_does_not_move_until_it_is_asked_to(page: Any, address: str, run: GrowingRun) -> None:
    page.goto(f"{address}completions?problem=gcd")
    before = 4 * run.num_steps
    told(page, before)
    run.step()
    page.get_by_role("button", name="There is more now").wait_for()
    told(page, before)
    page.keyboard.press("r")
    told(page, before + 4)
    assert lines(page).first.inner_text().startswith(f"{run.num_steps}\t")


def test_a_narrow_screen_needs_no_scrolling_sideways(page: Any, address: str) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    for where in ("", "completions", "problems", "group?id=s000012-3"):
        page.goto(f"{address}{where}")
        page.locator("main").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, where

"""The dashboard without a browser: queries, a growing ledger, responses and allowed hosts."""

import os
import shutil
import socket
import time
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from cluster.analysis.dashboard.command import is_loopback
from cluster.analysis.dashboard.query import NOT_GRADED, Query
from cluster.analysis.dashboard.search import Finder, TextSearch, matching, verdict_counts
from cluster.analysis.dashboard.server import POLICY, application, is_own_host
from cluster.analysis.dashboard.watch import LedgerWatch
from cluster.cli.main import main
from cluster.errors import ConfigError
from cluster.ledger.columns import File, LedgerColumns, Rows, read_columns
from tests.cluster.growing_run import HOSTILE_PROBLEM, PROMPTS, GrowingRun

PER_STEP = 11  # completions of a step: two groups of four, and three of a dropped group


@pytest.fixture
def run(tmp_path: Path) -> GrowingRun:
    made = GrowingRun(tmp_path / "run")
    for _ in range(3):
        made.step()
    return made


def columns_of(run: GrowingRun) -> LedgerColumns:
    return read_columns(run.folder.rollout_files())


def query(**parameters: str) -> Query:
    return Query.parse(list(parameters.items()))


def updated(watch: LedgerWatch) -> LedgerColumns:
    watch.update(watch.files())
    return watch.snapshot.columns


def test_a_query_is_restored_from_its_url() -> None:
    given = [
        ("problem", "a&b=c #1"),
        ("verdict", "wrong"),
        ("verdict", "not_graded"),
        ("min_reward", "0.25"),
        ("code", "x + y"),
        ("case", "1"),
    ]
    parsed = Query.parse([*given, ("order", "worst"), ("page", "3"), ("fate", ""), ("max_step", " ")])
    assert parsed.verdicts == ("wrong", "not_graded")
    assert (parsed.min_reward, parsed.max_step, parsed.matches_case, parsed.page) == (0.25, None, True, 3)
    import urllib.parse

    again = urllib.parse.parse_qsl(parsed.url().partition("?")[2])
    assert Query.parse(again) == parsed
    assert Query().url() == "completions"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("verdict", "wron"),
        ("fate", "x"),
        ("order", "random"),
        ("min_reward", "high"),
        ("max_step", "nan"),
        ("page", "inf"),
        ("code", "x" * 1001),
    ],
)
def test_an_invalid_parameter_is_reported(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name):
        query(**{name: value})


def test_filters_match_the_right_completions(run: GrowingRun) -> None:
    columns = columns_of(run)
    assert columns.num_rows == 3 * PER_STEP
    number = {
        "problem=gcd": 12,
        f"problem={HOSTILE_PROBLEM}": 12,
        "problem=G": 12,  # part of one id only
        "problem=nowhere": 0,
        "verdict=passed": 6,
        f"verdict={NOT_GRADED}": 6,  # per step, one ungradable completion and one that was never sampled
        "fate=stale": 6,
        "fate=trained": 24,
        "fate=failed": 3,
        "min_reward=0.35": 12 + 3,
        "max_reward=0.05": 6,
        "min_step=2": 22,
        "max_step=1": 11,
        "signs=1": 0,
    }
    found = {}
    for parameter in number:
        name, _, value = parameter.partition("=")
        found[parameter] = int(matching(columns, query(**{name: value})).sum())
    assert found == number
    counts = verdict_counts(columns, query(problem="gcd", verdict="wrong"))
    assert {word: num for word, num in counts.items() if num} == dict.fromkeys(
        ("passed", "wrong", "type_error", "syntax_error"), 3
    )


def test_orders_put_the_newest_of_equal_values_first_and_missing_values_last(run: GrowingRun) -> None:
    columns, finder = columns_of(run), Finder()
    rewards, steps = columns.numbers["total_reward"], columns.numbers["step"]
    best = finder.find(columns, query(order="best")).rows
    assert rewards[best[:6]].tolist() == [1.0] * 6
    assert steps[best[:6]].tolist() == [3.0, 3.0, 2.0, 2.0, 1.0, 1.0]
    assert np.isnan(rewards[best[-6:]]).all()
    worst = finder.find(columns, query(order="worst")).rows
    assert rewards[worst[0]] == np.float32(0.05)
    assert np.isnan(rewards[worst[-6:]]).all()
    newest, oldest = (finder.find(columns, query(order=order)).rows for order in ("newest", "oldest"))
    assert steps[newest].tolist() == sorted(steps, reverse=True)
    assert oldest.tolist() == sorted(newest.tolist())
    assert len(best) == len(set(best.tolist())) == columns.num_rows


def test_a_search_continues_where_it_stopped_and_reads_each_file_once(
    run: GrowingRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    search_file = TextSearch._search_file

    def recording_search(self: TextSearch, file: File) -> Rows:
        read.append(file.path.name)
        return search_file(self, file)

    monkeypatch.setattr(TextSearch, "_search_file", recording_search)
    columns = columns_of(run)
    everything = np.arange(columns.num_rows)
    search = TextSearch("needle", matches_case=False)
    rows, num_searched = search.search(columns, everything, cpu_seconds=-1.0)
    assert (len(rows), num_searched, read) == (0, 0, [])
    steps = columns.numbers["step"]
    rows, num_searched = search.search(columns, np.flatnonzero(steps == 3), cpu_seconds=10.0)
    assert len(rows) == 4
    assert num_searched == PER_STEP
    rows, num_searched = search.search(columns, everything, cpu_seconds=10.0)
    assert (len(rows), num_searched) == (12, columns.num_rows)
    assert len(read) == len(set(read)) == len(columns.files)
    assert len(TextSearch("needle", matches_case=True).search(columns, everything, 10.0)[0]) == 6


def test_the_watch_notices_added_removed_changed_and_damaged_files(run: GrowingRun) -> None:
    watch = LedgerWatch(run.folder.rollouts)
    assert not watch.snapshot.is_complete
    first = updated(watch)
    assert (first.num_rows, watch.snapshot.is_complete) == (3 * PER_STEP, True)
    version = watch.snapshot.version
    assert updated(watch) is first
    assert watch.snapshot.version == version
    run.step()
    assert updated(watch).num_rows == 4 * PER_STEP
    assert first.num_rows == 3 * PER_STEP  # snapshots are immutable
    run.folder.truncate_after(2)  # resumed from a checkpoint
    assert sorted(set(updated(watch).numbers["step"].tolist())) == [1.0, 2.0]
    newest = run.folder.rollout_files()[-1]
    other = run.folder.rollout_files()[0]
    shutil.copy(other, newest)  # another file under the same name
    os.utime(newest, ns=(1, 1))
    assert set(updated(watch).numbers["step"].tolist()) == {1.0}
    broken = run.folder.rollouts / "step-000009-000001.parquet"
    broken.write_bytes(b"PAR1 half")
    (run.folder.rollouts / "step-000009-000002.tmp").write_bytes(b"")
    before = updated(watch).num_rows
    assert before > 0
    assert "cannot be read as Parquet" in watch.snapshot.errors[0]
    broken.unlink()
    updated(watch)
    assert watch.snapshot.errors == ()


def test_references_find_the_rows_in_the_files(run: GrowingRun) -> None:
    import pyarrow.parquet as pq

    columns = columns_of(run)
    words = columns.words["group_id"]
    for row in range(columns.num_rows):
        path, within = columns.reference(row)
        stored = pq.read_table(path, columns=["group_id", "total_reward"]).slice(within, 1).to_pylist()[0]
        assert stored["group_id"] == words[columns.codes["group_id"][row]]
        reward = float(columns.numbers["total_reward"][row])
        assert stored["total_reward"] == pytest.approx(reward) or (stored["total_reward"] is None and np.isnan(reward))


def test_every_response_has_the_security_policy(run: GrowingRun) -> None:
    with TestClient(application(run.folder.path), base_url="http://localhost") as client:
        for address, status in (
            ("/", 200),
            ("/completions", 200),
            ("/completions?page=99", 200),
            ("/problems?order=seconds", 200),
            ("/completions?min_reward=high", 400),
            ("/problems?order=x", 400),
            ("/group?id=%3Cscript%3E", 404),
            ("/picture/light/nothing.svg", 404),
            ("/static/../server.py", 404),
            ("/docs", 404),
        ):
            answer = client.get(address)
            assert answer.status_code == status, address
            assert answer.headers["content-security-policy"].startswith(POLICY[:19])
            assert "<script>" not in answer.text
        assert client.post("/").status_code == 405
        etag = client.get("/problems").headers["etag"]
        assert client.get("/problems", headers={"If-None-Match": etag}).status_code == 304
        assert client.get("/", headers={"Host": "example.org"}).status_code == 421


def test_a_group_shows_the_prompt_that_the_model_read(run: GrowingRun) -> None:
    deadline = time.monotonic() + 60
    with TestClient(application(run.folder.path), base_url="http://localhost") as client:
        while (answer := client.get("/group", params={"id": "s000001-3"})).status_code == 404:
            assert 'data-refresh="reading"' in answer.text, answer.text
            assert time.monotonic() < deadline, "the ledger was not read within 60 s"
            time.sleep(0.05)
        missing = client.get("/group", params={"id": "s000009-3"})
    assert PROMPTS["gcd"].text in unescape(answer.text)
    assert "there is no group s000009-3" in missing.text and 'data-refresh="ask"' in missing.text


def test_only_requests_for_the_machines_own_names_are_served() -> None:
    own = {"localhost", "box"}
    for host in ("localhost", "localhost:8642", "127.0.0.1:8642", "[::1]:8642", "[::1]", "BOX:1", "10.0.0.7"):
        assert is_own_host(host, own), host
    for host in ("", "example.org", "example.org:8642", "localhost.example.org", "127.0.0.1.example.org:80"):
        assert not is_own_host(host, own), host
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")


def test_errors_of_the_command_are_reported_in_one_line(
    run: GrowingRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dashboard", str(tmp_path / "nothing")]) == 1
    assert "is not a run directory" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["dashboard", str(run.folder.path), "--port", str(port)]) == 2
    output = capsys.readouterr().err
    assert f"port {port} of 127.0.0.1" in output
    assert output.count("\n") == 1
    assert main(["dashboard", str(run.folder.path), "--host", "a..b"]) == 2
    assert "of a..b (not a valid host name)" in capsys.readouterr().err


def test_the_host_given_on_the_command_line_is_served(run: GrowingRun) -> None:
    with TestClient(application(run.folder.path, "TrainBox"), base_url="http://trainbox:8642") as client:
        assert client.get("/").status_code == 200
        assert client.get("/", headers={"Host": "example.org"}).status_code == 421


def test_a_run_without_a_step_is_served_and_nothing_is_written_into_it(tmp_path: Path) -> None:
    run = GrowingRun(tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.folder.path.rglob("*")}
    with TestClient(application(run.folder.path), base_url="http://localhost") as client:
        assert "No step has finished yet" in client.get("/").text
        assert client.get("/completions").status_code == 200
        assert client.get("/problems").status_code == 200
    assert {path: path.stat().st_mtime_ns for path in run.folder.path.rglob("*")} == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda table: table.set_column(
            table.schema.get_field_index("step"), "step", pa.array(["first"] * len(table), pa.string())
        ),
        lambda table: table.set_column(
            table.schema.get_field_index("problem_id"),
            "problem_id",
            pa.array([b"\xff\xfe"] * len(table), pa.binary()).view(pa.string()),
        ),
    ],
)
def test_a_foreign_file_is_reported_and_the_others_are_shown(run: GrowingRun, damage: Callable[[Any], Any]) -> None:
    path = run.folder.rollout_files()[1]
    pq.write_table(damage(pq.read_table(path)), path)
    watch = LedgerWatch(run.folder.rollouts)
    watch.update(watch.files())
    assert watch.snapshot.columns.num_rows == 2 * PER_STEP
    (error,) = watch.snapshot.errors
    assert f"{path} is not a rollout file" in error


def test_a_file_without_completions_is_accepted(run: GrowingRun) -> None:
    path = run.folder.rollout_files()[1]
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    watch = LedgerWatch(run.folder.rollouts)
    watch.update(watch.files())
    assert (watch.snapshot.columns.num_rows, watch.snapshot.errors) == (2 * PER_STEP, ())
    assert read_columns([path]).num_rows == 0
    assert watch.snapshot.columns.reference(2 * PER_STEP - 1) == (run.folder.rollout_files()[2], PER_STEP - 1)


def test_an_incomplete_search_shows_its_progress(run: GrowingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.analysis.dashboard.search.FIRST_CPU_SECONDS", -1.0)
    with TestClient(application(run.folder.path), base_url="http://localhost") as client:
        while "reading the ledger" in client.get("/completions").text:
            time.sleep(0.05)
        page = client.get("/completions?code=needle").text
    assert '<p id="count"><b>0</b> completions so far; searched 0 of 33' in page
    assert 'data-refresh="searching"' in page

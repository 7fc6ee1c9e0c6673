"""The report of a run, with completions that attack the reader's browser."""

import base64
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.analysis.report.ledger_summary import read_summary
from cluster.analysis.report.markdown import escape
from cluster.analysis.report.plots import MAX_POINTS, downsampled
from cluster.analysis.report.write import write_report
from cluster.cli.main import main
from cluster.config.load import load_config
from cluster.console import View
from cluster.ledger.outcomes import DroppedGroup
from cluster.ledger.progress import Progress
from cluster.ledger.run_folder import RunFolder
from cluster.loop.metrics import step_metrics
from cluster.run.recorder import RunRecorder
from cluster.types import Drop, DropReason, Group, StepReport, Verdict
from tests.cluster.analysis.html_page import HtmlPage
from tests.cluster.baseline_analyses import FIRST_LOG
from tests.cluster.records import grade, group, problem

HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</pre></div><iframe src='https://example.org'></iframe>",
    'let x = "</style><style>body{display:none}" (* <!-- *)',
    "\u202eevil\u202c \u2028 \x00 \x1b[31m",
    "let rec f = function [] -> 0 | _ :: t -> 1 + f t & <b>",
)


VERDICTS = (
    Verdict.SYNTAX_ERROR,
    Verdict.TYPE_ERROR,
    Verdict.WRONG,
    Verdict.RAISED,
    Verdict.TIMEOUT,
    Verdict.PASSED,
)
TAGS = (
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "h1",
    "h2",
    "p",
    "span",
    "br",
    "div",
    "pre",
    "table",
    "tr",
    "th",
    "td",
    "details",
    "summary",
    "section",
)


def hostile_group(step: int, name: str) -> Group:
    base = group([0.0] * len(HOSTILE), group_id=f"g{step:06d}{name[-1]}")
    rewards = [0.05 * index + 0.1 for index in range(len(HOSTILE))]
    grades = []
    for index, reward in enumerate(rewards):
        made = grade(reward, VERDICTS[index])
        flags = ("stub",) if index == 2 else ()
        facts = replace(made.facts, quality_flags=flags, diagnostics=f"Error: {HOSTILE[index]}")
        grades.append(replace(made, facts=facts))
    return replace(
        base,
        problem=problem(f"<b>{name}</b>"),
        completions=tuple(replace(one, text=text) for one, text in zip(base.completions, HOSTILE, strict=True)),
        grades=tuple(grades),
    )


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "run<i>$x$")
    with folder.opened(load_config(None, environment={})):
        records = RunRecorder(folder, View(), lambda _: None)
        for step in range(1, 46):
            groups = [hostile_group(step, "p1"), hostile_group(step, "p2")]
            report = StepReport(step=step, metrics={"loss": 0.1, "entropy": 0.2, "grad_norm": 0.1})
            metrics = step_metrics(groups, [], report, Progress(), {"step_seconds": 1.0})
            records.step_done(step / 30, groups, report, metrics, {})
        records.group_dropped(
            DroppedGroup(group=group([None]), group_size=2, drop=Drop(DropReason.SAMPLER_FAILED, "<script>")), step=45
        )
        records.settings_changed(20, {"rollout.temperature": 1.1})
        folder.append_json(
            folder.health, {"step": 20, "rule": "entropy", "health": "warn", "evidence": "<u>why</u>", "set": {}}
        )
    return folder.path


@pytest.fixture(scope="module")
def page(hostile: Path) -> HtmlPage:
    assert write_report([hostile], None) == hostile / "report" / "report.html"
    return HtmlPage((hostile / "report" / "report.html").read_text(encoding="utf-8"))


def test_hostile_completions_are_escaped(page: HtmlPage) -> None:
    names = {tag for tag, _ in page.tags}
    assert names <= {*TAGS, "b", "img"}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") or name == "href" for name in attributes)
        if tag == "img":
            assert (attributes["src"] or "").startswith("data:image/svg+xml;base64,")
    policy = next(attributes for _, attributes in page.tags if "http-equiv" in attributes)
    assert "default-src 'none'" in (policy["content"] or "")
    for shown in (*HOSTILE[:4], HOSTILE[5], "<b>p1</b>", "<u>why</u>"):
        assert shown in page.text
    assert not any(hidden in page.text for hidden in ("\u202e", "\x00", "\x1b", "\u2028"))


def test_the_report_has_all_sections_and_plots(hostile: Path, page: HtmlPage) -> None:
    for title in (
        "Health",
        "Hardest problems",
        "Slowest problems",
        "Reward hacking suspects",
        "Best",
        "Worst",
        "Changed settings",
    ):
        assert title in page.text
    assert "rewarded despite low-quality flags" in page.text
    assert "the same program for 2 different problems" in page.text
    assert "rollout.temperature=1.1" in page.text
    plots = [attributes["alt"] for tag, attributes in page.tags if tag == "img"]
    assert {"Reward", "Verdicts", "Reward distribution by step", "Groups without signal", "Entropy (nats)"} <= set(
        plots
    )
    files = {path.name for path in (hostile / "report").iterdir()}
    assert {"reward.png", "outcomes.png", "reward_histogram.png", "report.md"} <= files
    assert "<script" not in (hostile / "report" / "report.md").read_text()


def test_plots_load_no_external_content(page: HtmlPage) -> None:
    for tag, attributes in page.tags:
        if tag == "img":
            svg = base64.b64decode((attributes["src"] or "").partition(",")[2]).decode()
            assert "<script" not in svg
            assert 'xlink:href="http' not in svg


def test_several_runs_are_compared(hostile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(hostile), str(hostile)]) == 2
    assert "--out" in capsys.readouterr().err
    assert main(["report", str(hostile), str(hostile), "--out", str(tmp_path / "both")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'both' / 'report.html'}\n"
    page = HtmlPage((tmp_path / "both" / "report.html").read_text(encoding="utf-8"))
    assert "Comparison" in page.text
    assert (tmp_path / "both" / "compared_reward.png").stat().st_size > 1000
    assert (tmp_path / "both" / "2_reward.png").exists()


def test_the_ledger_summary_counts_graded_completions(hostile: Path) -> None:
    ledger = read_summary(RunFolder(hostile))
    assert (ledger.num_completions, ledger.num_graded) == (45 * 12, 45 * 12)
    hardest = ledger.hardest(1)[0]
    assert hardest.num_completions == 45 * 6
    assert hardest.num_passed == 45
    assert ledger.best[0].row["total_reward"] == pytest.approx(0.35)
    assert ledger.worst[0].row["total_reward"] == pytest.approx(0.1)
    assert ledger.best[0].row["step"] == 45  # the newest of equal ones
    assert [one.row["problem_id"] for one in ledger.best] == ["<b>p2</b>", "<b>p1</b>"]
    assert {one.row["verdict"] for one in ledger.worst} == set(VERDICTS)


def test_the_learning_log_of_another_trainer_is_enough_for_a_report(tmp_path: Path) -> None:
    (tmp_path / "learning.log").write_text(FIRST_LOG, encoding="utf-8")
    assert main(["report", str(tmp_path)]) == 0
    page = HtmlPage((tmp_path / "report" / "report.html").read_text(encoding="utf-8"))
    assert "mode_collapse" in page.text
    assert {"Reward", "Entropy (nats)"} <= {attributes["alt"] for tag, attributes in page.tags if tag == "img"}


def test_long_runs_are_downsampled_to_means_of_neighbouring_steps() -> None:
    rows = [{"step": step, "reward": float(step % 2)} for step in range(1, 5001)]
    steps, values = downsampled([*rows, {"step": 5001, "reward": float("nan")}], "reward")
    assert len(steps) == MAX_POINTS
    assert set(values) == {0.5}
    assert (steps[0], steps[-1]) == (5.5, 4995.5)


@pytest.mark.parametrize(
    "rows",
    [
        [{"verdict_passed": 0.5, "verdict_wrong": 0.5}, {"verdict_passed": 0.5, "verdict_denied": 0.5}],
        [{"verdict_passed": 0.0}, {"verdict_passed": 0.0, "verdict_wrong": math.nan}],
        [{"reward_histogram/0": 1.0}, {"reward_histogram/0": 0.5, "reward_histogram/9": 0.5}, {}],
        [{"reward": None, "loss": None}],
    ],
)
def test_missing_metrics_of_some_steps_do_not_prevent_a_report(tmp_path: Path, rows: list[dict[str, float]]) -> None:
    lines = (json.dumps({"step": step, "epoch": step / 10, "reward": 0.5, **row}) for step, row in enumerate(rows, 1))
    (tmp_path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    assert main(["report", str(tmp_path)]) == 0
    HtmlPage((tmp_path / "report" / "report.html").read_text(encoding="utf-8"))


def test_a_run_without_a_step_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 1
    assert "no run started there" in capsys.readouterr().err


def test_markdown_is_escaped() -> None:
    assert escape("a|b `c` <img> *d*\n[e](f)") == r"a\|b \`c\` \<img> \*d\* \[e\](f)"

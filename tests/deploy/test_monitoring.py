"""``deploy/grafana.json`` and ``deploy/alerts.yaml`` as Grafana and Prometheus read them.

tests/cluster/run/test_train.py compares their metrics with those that a run exports.
"""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
DURATION = re.compile(r"\d+[smh]")


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return dict(json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8")))


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((DEPLOY / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    assert group.keys() == {"name", "rules"}
    return list(group["rules"])


def test_grafana_can_import_the_dashboard(dashboard: dict[str, Any]) -> None:
    assert dashboard["schemaVersion"] >= 36  # data sources as objects
    assert "id" not in dashboard  # ids belong to one server's database
    assert "__inputs" not in dashboard  # a variable chooses the data source
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    datasource, run = dashboard["templating"]["list"]
    assert (datasource["name"], datasource["type"], datasource["query"]) == ("datasource", "datasource", "prometheus")
    assert (run["name"], run["datasource"], run["definition"]) == ("run", DATA_SOURCE, run["query"]["query"])


def test_every_panel_queries_the_chosen_data_source_for_the_chosen_runs(dashboard: dict[str, Any]) -> None:
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len(panels) > 10
    for panel in panels:
        assert panel["datasource"] == DATA_SOURCE, panel["title"]
        assert panel["description"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert references
        assert len(references) == len(set(references)), panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == DATA_SOURCE, panel["title"]
            # One line per run: a resumed run has other labels of processes.
            assert re.fullmatch(r'max by \(run\) \(ray_caravan_\w+\{run=~"\$run"\}\)', target["expr"]), target["expr"]


def test_no_panel_covers_another(dashboard: dict[str, Any]) -> None:
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        left_or_right = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        over_or_under = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert left_or_right or over_or_under, (one, other)


def test_there_are_three_alerts_with_a_duration_and_a_description() -> None:
    assert [rule["alert"] for rule in alerts()] == ["CaravanNoStep", "CaravanNoSignal", "CaravanFailures"]
    for rule in alerts():
        assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
        assert DURATION.fullmatch(rule["for"])
        assert rule["labels"].keys() == {"severity"}
        assert rule["annotations"].keys() == {"summary", "description"}
        assert "$labels.run" in rule["annotations"]["summary"]


def test_alerts_are_about_runs_and_not_about_their_processes() -> None:
    for rule in alerts():
        expression = rule["expr"]
        metrics = re.findall(r"ray_caravan_\w+", expression)
        by_run = re.findall(r"max by \(run\) \((?:\w+\()?ray_caravan_\w+", expression)
        assert len(metrics) == len(by_run) > 1, rule["alert"]
        assert expression.count("(") == expression.count(")")

"""``deploy/ray_cluster.yaml`` compared with the schema of Ray's cluster launcher, and read by the launcher itself."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


def cluster() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "deploy/ray_cluster.yaml").read_text()))


def test_the_cluster_launcher_accepts_its_file() -> None:
    jsonschema.validate(cluster(), SCHEMA)


@pytest.mark.parametrize(
    "change",
    [{"head_start_commands": []}, {"setup_commands": "requirements/setup"}, {"provider": {"head_ip": "10.0.0.1"}}],
)
def test_the_cluster_launcher_refuses_an_unknown_key_or_value(change: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster(), **change}, SCHEMA)


def test_the_cluster_launcher_fills_in_defaults() -> None:
    from ray.autoscaler._private.util import prepare_config

    prepared = prepare_config(cluster())
    jsonschema.validate(prepared, SCHEMA)
    assert prepared["max_workers"] == 2
    assert prepared["head_start_ray_commands"] == cluster()["head_start_ray_commands"]

"""The files of deploy/, which are not run here: compared with Ray's schema and with the rest of the project."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import ray.autoscaler
import yaml

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)", (ROOT / "requirements/base.txt").read_text(), re.MULTILINE)
    assert found
    return found.group(1)


def rayjob() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "rayjob.yaml").read_text()))


def test_the_clusters_launcher_accepts_its_file() -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load((DEPLOY / "ray_cluster.yaml").read_text()), schema)


def test_kubernetes_runs_the_ray_that_is_installed_with_the_jobs_environment() -> None:
    spec = rayjob()["spec"]
    assert spec["rayClusterSpec"]["rayVersion"] == pinned("ray")
    ours = yaml.safe_load((ROOT / "ray_job.yaml").read_text())["env_vars"]
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"] == ours


def test_on_kubernetes_graders_get_no_token() -> None:
    groups = {group["groupName"]: group for group in rayjob()["spec"]["rayClusterSpec"]["workerGroupSpecs"]}
    (container,) = groups["graders"]["template"]["spec"]["containers"]
    assert "env" not in container
    assert "HF_TOKEN" in json.dumps(groups["gpus"])


def test_the_configuration_that_kubernetes_runs_fits_its_machines() -> None:
    from cluster.config.load import load_config
    from cluster.placement.plan.machines import parse_machines
    from cluster.placement.plan.model_shape import ModelShape
    from cluster.placement.plan.places import make_plan

    spec = rayjob()["spec"]
    command, train, option, file, *settings = spec["entrypoint"].split()
    assert (command, train, option) == ("caravan", "train", "-c")
    config = load_config(ROOT / file.removeprefix("/opt/caravan/"), settings)
    machines = []
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        gpus = f",gpus={limits['nvidia.com/gpu']},gpu=H100" if "nvidia.com/gpu" in limits else ""
        machines.append(f"cpus={limits['cpu']}{gpus},count={group['replicas']}")
    qwen = ModelShape(
        hidden=1536,
        intermediate=8960,
        layers=28,
        heads=12,
        kv_heads=2,
        head_dim=128,
        vocabulary=151936,
        tied=True,
        has_qkv_bias=True,
    )
    plan = make_plan(config, qwen, parse_machines(machines))
    assert sum(node.num_graders for node in plan.nodes) >= config.grader.minimum
    assert config.run.folder.is_absolute()


def test_the_image_is_made_by_the_set_up_that_everybody_uses() -> None:
    steps = (DEPLOY / "Dockerfile").read_text()
    assert "FROM python:3.11-" in steps
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"] == ">=3.11"
    assert "RUN CARAVAN_DEVICE=$DEVICE requirements/setup" in steps
    # What the image takes from the folder must hold what the set-up and a run read.
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert not {"assets", "configs", "requirements", "cluster", "grader", "learner", "rollout", "pyproject.toml"} & set(
        ignored
    )

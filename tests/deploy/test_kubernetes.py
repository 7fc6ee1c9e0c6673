"""``deploy/rayjob.yaml`` compared with KubeRay's fields and with the rest of the project; Kubernetes itself does not run here."""

import copy
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from tests.deploy.kuberay import RayJob, WorkerGroup

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)", (ROOT / "requirements/base.txt").read_text(), re.MULTILINE)
    assert found
    return found.group(1)


def rayjob() -> dict[str, Any]:
    return dict(yaml.safe_load((DEPLOY / "rayjob.yaml").read_text()))


def node_group(name: str) -> WorkerGroup:
    cluster = RayJob.model_validate(rayjob()).spec.ray_cluster_spec
    assert cluster is not None
    (group,) = [group for group in cluster.worker_group_specs if group.group_name == name]
    return group


# Paths in the file.
GPU_GROUP = ("spec", "rayClusterSpec", "workerGroupSpecs", 0)
GPU_POD = (*GPU_GROUP, "template", "spec")


@pytest.mark.parametrize(
    ("place", "key", "value", "message"),
    [
        (("spec",), "shutdownAfterJobFinished", True, "Extra inputs"),
        (("spec", "rayClusterSpec"), "enableInTreeAutoScaling", True, "Extra inputs"),
        (("spec", "rayClusterSpec"), "headGroupSpec", None, "valid dictionary"),
        (("spec", "rayClusterSpec", "authOptions"), "mode", "tokens", "'disabled' or 'token'"),
        (GPU_GROUP, "maxReplicas", "1", "valid integer"),
        (GPU_GROUP, "maxReplicas", 0, "out of bounds"),
        (GPU_GROUP, "rayStartParams", {"object-store-memory": 8589934592}, "valid string"),
        (GPU_POD, "toleration", [], "Extra inputs"),
        (GPU_POD, "volumes", [], "declared"),
        ((*GPU_POD, "tolerations", 0), "value", "true", "only with Equal"),
        ((*GPU_POD, "volumes", 1), "emptyDir", {"medium": "memory", "sizeLimit": "16Gi"}, "'' or 'Memory'"),
        ((*GPU_POD, "volumes", 1, "emptyDir"), "sizeLimit", "16GiB", "match pattern"),
        ((*GPU_POD, "containers", 0), "volumes", [], "Extra inputs"),
        ((*GPU_POD, "containers", 0, "volumeMounts", 0), "path", "/cache", "Extra inputs"),
        ((*GPU_POD, "containers", 0, "env", 1), "valueFrom", {"secretKeyRef": {"name": "a", "key": "b"}}, "not both"),
    ],
)
def test_a_field_or_value_that_kuberay_does_not_accept_is_refused(
    place: Sequence[str | int], key: str, value: object, message: str
) -> None:
    changed: Any = copy.deepcopy(rayjob())
    RayJob.model_validate(changed)
    field = changed
    for step in place:
        field = field[step]
    field[key] = value
    with pytest.raises(ValidationError, match=message):
        RayJob.model_validate(changed)


def test_gpu_nodes_have_caches_that_outlive_them_and_shared_memory_that_the_object_store_does_not_fill() -> None:
    group = node_group("gpus")
    pod = group.template.spec
    (container,) = pod.containers
    kinds = {volume.name: volume for volume in pod.volumes}
    mounts = {mount.mount_path: kinds[mount.name] for mount in container.volume_mounts}
    variables = {variable.name: variable.value for variable in container.env}
    for name in ("HF_HOME", "VLLM_CACHE_ROOT"):
        value = variables[name]
        assert value is not None
        (cache,) = [volume for path, volume in mounts.items() if value.startswith(f"{path}/")]
        assert cache.persistent_volume_claim is not None
    shared = mounts["/dev/shm"].empty_dir
    assert shared is not None
    assert shared.medium == "Memory"
    assert shared.size_limit == "16Gi"
    assert int(group.ray_start_params["object-store-memory"]) == 8 * 1024**3


def test_gpu_nodes_may_be_tainted() -> None:
    (toleration,) = node_group("gpus").template.spec.tolerations
    assert (toleration.key, toleration.operator) == ("nvidia.com/gpu", "Exists")
    assert not node_group("graders").template.spec.tolerations


def test_kubernetes_runs_the_pinned_ray_with_the_environment_of_ray_job_yaml() -> None:
    spec = rayjob()["spec"]
    assert spec["rayClusterSpec"]["rayVersion"] == pinned("ray")
    ours = yaml.safe_load((ROOT / "ray_job.yaml").read_text())["env_vars"]
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"] == ours


def test_graders_on_kubernetes_get_no_token() -> None:
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

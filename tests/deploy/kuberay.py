"""The fields of a KubeRay RayJob (``ray.io/v1``) as models that refuse every other field.

The API server drops fields that it does not know without an error, so a misspelt one goes unnoticed. The models have the field
names and types of KubeRay 1.7.0 (its CRD ``ray.io_rayjobs.yaml`` and API reference). RayJob and RayCluster are complete up to
the options marked ``object``; of a pod there is what one container with volumes and tolerations needs. A file that uses more
fails here until its fields are added.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Quantity = Annotated[str, Field(pattern=r"^\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")] | Annotated[int, Field(ge=0)]
Strings = dict[str, str]


class Strict(BaseModel):
    """A model with fields in camel case that accepts only the declared fields and types."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


class SecretKey(Strict):
    name: Name
    key: str
    optional: bool = False


class ValueFrom(Strict):
    secret_key_ref: SecretKey


class Variable(Strict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    value: str | None = None
    value_from: ValueFrom | None = None

    @model_validator(mode="after")
    def has_one_source(self) -> "Variable":
        assert (self.value is None) != (self.value_from is None), f"{self.name}: value or valueFrom, not both"
        return self


class Resources(Strict):
    limits: dict[str, Quantity]
    requests: dict[str, Quantity]


class VolumeMount(Strict):
    name: Name
    mount_path: Annotated[str, Field(pattern="^/")]
    sub_path: str | None = None
    read_only: bool = False


class Container(Strict):
    name: Name
    image: str
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    command: list[str] | None = None
    args: list[str] | None = None
    resources: Resources
    env: list[Variable] = []
    volume_mounts: list[VolumeMount] = []


class EmptyDir(Strict):
    medium: Literal["", "Memory"] = ""
    size_limit: Quantity | None = None


class PersistentVolumeClaim(Strict):
    claim_name: Name
    read_only: bool = False


class Volume(Strict):
    name: Name
    empty_dir: EmptyDir | None = None
    persistent_volume_claim: PersistentVolumeClaim | None = None

    @model_validator(mode="after")
    def has_one_kind(self) -> "Volume":
        assert len(self.model_fields_set) == 2, f"{self.name}: a volume has a name and exactly one kind"
        return self


class Toleration(Strict):
    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: int | None = None

    @model_validator(mode="after")
    def has_a_value_to_compare(self) -> "Toleration":
        assert (self.operator == "Equal") == (self.value is not None), "a value goes with Equal, and only with Equal"
        return self


class PodSpec(Strict):
    containers: Annotated[list[Container], Field(min_length=1)]
    volumes: list[Volume] = []
    tolerations: list[Toleration] = []
    node_selector: Strings = {}
    service_account_name: Name | None = None
    termination_grace_period_seconds: int | None = None

    @model_validator(mode="after")
    def mounts_its_volumes(self) -> "PodSpec":
        names = [volume.name for volume in self.volumes]
        assert len(names) == len(set(names)), f"volumes of one name: {names}"
        for container in self.containers:
            paths = [mount.mount_path for mount in container.volume_mounts]
            assert len(paths) == len(set(paths)), f"{container.name}: several volumes at one path: {paths}"
        mounted = {mount.name for container in self.containers for mount in container.volume_mounts}
        assert mounted == set(names), f"mounted {sorted(mounted)}, declared {sorted(names)}"
        return self


class Metadata(Strict):
    name: Name | None = None
    namespace: Name | None = None
    labels: Strings = {}
    annotations: Strings = {}


class PodTemplate(Strict):
    metadata: Metadata | None = None
    spec: PodSpec


class HeadGroup(Strict):
    template: PodTemplate
    ray_start_params: Strings = {}
    service_type: Literal["ClusterIP", "NodePort", "LoadBalancer"] | None = None
    enable_ingress: bool | None = None
    head_service: object = None
    ingress_options: object = None
    labels: Strings = {}
    resources: Strings = {}


class WorkerGroup(Strict):
    group_name: Name
    replicas: Annotated[int, Field(ge=0)] = 0
    min_replicas: Annotated[int, Field(ge=0)]
    max_replicas: Annotated[int, Field(ge=0)]
    template: PodTemplate
    ray_start_params: Strings = {}
    num_of_hosts: int = 1
    idle_timeout_seconds: int | None = None
    priority: int | None = None
    suspend: bool | None = None
    scale_strategy: object = None
    labels: Strings = {}
    resources: Strings = {}

    @model_validator(mode="after")
    def has_replicas_within_bounds(self) -> "WorkerGroup":
        assert self.min_replicas <= self.replicas <= self.max_replicas, f"{self.group_name}: replicas out of bounds"
        return self


class AuthOptions(Strict):
    mode: Literal["disabled", "token"]
    secret_name: Name | None = None
    enable_k8s_token_auth: bool | None = Field(default=None, alias="enableK8sTokenAuth")


class RayClusterSpec(Strict):
    head_group_spec: HeadGroup
    worker_group_specs: list[WorkerGroup] = []
    ray_version: str | None = None
    auth_options: AuthOptions | None = None
    enable_in_tree_autoscaling: bool | None = None
    autoscaler_options: object = None
    gcs_fault_tolerance_options: object = None
    head_service_annotations: Strings = {}
    history_server_options: object = None
    managed_by: str | None = None
    network_policy: object = None
    suspend: bool | None = None
    tls_options: object = None
    upgrade_strategy: object = None


class RayJobSpec(Strict):
    entrypoint: str | None = None
    runtime_env_yaml: str | None = Field(default=None, alias="runtimeEnvYAML")
    ray_cluster_spec: RayClusterSpec | None = None
    cluster_selector: Strings = {}
    submission_mode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"] | None = None
    submitter_pod_template: object = None
    submitter_config: object = None
    shutdown_after_job_finishes: bool | None = None
    ttl_seconds_after_finished: int | None = None
    active_deadline_seconds: int | None = None
    pre_running_deadline_seconds: int | None = None
    backoff_limit: int | None = None
    deletion_strategy: object = None
    entrypoint_num_cpus: float | None = None
    entrypoint_num_gpus: float | None = None
    entrypoint_resources: str | None = None
    job_id: str | None = None
    managed_by: str | None = None
    metadata: Strings = {}
    suspend: bool | None = None


class RayJob(Strict):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec

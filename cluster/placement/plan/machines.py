"""The machines of a cluster, real or planned: cores, GPUs, and the GPUs' data sheets."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.cores import usable_cores
from cluster.errors import ConfigError
from cluster.placement.gpu_facts import GpuFacts, MachineGpus, gpus_of_this_machine
from cluster.placement.plan.model_shape import GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU; None means unknown, and nothing is estimated from it."""

    name: str
    gib: float | None  # memory
    tflops: float | None = None  # dense bfloat16
    tb_per_second: float | None = None  # memory bandwidth


GPUS = {
    gpu.name: gpu
    for gpu in (  # NVIDIA's data sheets; GiB as the driver reports them, or 98.5% of the data sheet's
        Gpu(name="B200", gib=178.3, tflops=2250, tb_per_second=7.7),
        Gpu(name="GH200", gib=94.5, tflops=989, tb_per_second=4.0),
        Gpu(name="H200", gib=139.8, tflops=989, tb_per_second=4.8),
        Gpu(name="H100", gib=79.1, tflops=989, tb_per_second=3.35),
        Gpu(name="H100-NVL", gib=93.1, tflops=835, tb_per_second=3.9),
        Gpu(name="H20", gib=95.0, tflops=148, tb_per_second=4.0),
        Gpu(name="A100-80G", gib=79.2, tflops=312, tb_per_second=2.0),
        Gpu(name="A100", gib=39.4, tflops=312, tb_per_second=1.56),
        Gpu(name="L40S", gib=44.5, tflops=362, tb_per_second=0.86),
        Gpu(name="A40", gib=44.4, tflops=150, tb_per_second=0.7),
        Gpu(name="A10G", gib=22.1, tflops=70, tb_per_second=0.6),
        Gpu(name="L4", gib=22.0, tflops=121, tb_per_second=0.3),
        Gpu(name="RTX4090", gib=23.6, tflops=165, tb_per_second=1.01),
        Gpu(name="RTX3090", gib=23.6, tflops=71, tb_per_second=0.94),
    )
}
"""Name -> data sheet: the names that ``--machine`` accepts, and the speed of GPUs of that model."""

_KNOWN = {name.upper(): gpu for name, gpu in GPUS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One machine of the cluster."""

    name: str
    cpus: float
    num_gpus: int = 0
    gpu: Gpu | None = None  # all GPUs of a machine are of one kind


def parse_machines(texts: Sequence[str]) -> list[Machine]:
    """Machines of texts like ``cpus=96,gpus=8,gpu=H100,count=4``; raises ConfigError for any other text.

    ``gpu_gib`` replaces ``gpu`` for a GPU model that is not in GPUS; ``count`` defaults to 1.
    """
    machines: list[Machine] = []
    for text in texts:
        values = _values(text)
        gpu = _gpu(values, text)
        num_gpus = int(_number(values, "gpus", text, default=1 if gpu else 0))
        if num_gpus and gpu is None:
            raise ConfigError(f"--machine {text}: name the GPUs, gpu={'|'.join(GPUS)} or gpu_gib=NUMBER")
        cpus = _number(values, "cpus", text, default=None)
        for _ in range(int(_number(values, "count", text, default=1))):
            machines.append(Machine(name=f"machine {len(machines) + 1}", cpus=cpus, num_gpus=num_gpus, gpu=gpu))
    return machines


def machines_of(nodes: Sequence[Mapping[str, Any]], gpus: Mapping[str, MachineGpus]) -> list[Machine]:
    """The machines of a Ray cluster, from ``ray.nodes()`` and the GPUs of each node by its id."""
    return [
        _machine(node["NodeManagerAddress"], node["Resources"], gpus.get(node["NodeID"], MachineGpus()))
        for node in nodes
        if node["Alive"]
    ]


def this_machine() -> Machine:
    """Resources of this machine as Ray would count them, without starting Ray."""
    from ray._private.resource_and_label_spec import ResourceAndLabelSpec

    manager, num_gpus = ResourceAndLabelSpec._get_current_node_accelerator(None, {})
    resources: dict[str, float] = {"CPU": usable_cores()}
    if not (manager and manager.get_resource_name() == "GPU" and num_gpus):
        return _machine("this machine", resources, MachineGpus())
    return _machine("this machine", resources | {"GPU": num_gpus}, gpus_of_this_machine())


def totals(machines: Sequence[Machine]) -> dict[str, float]:
    """The total resources of the machines, by Ray's names."""
    return {
        "CPU": sum(machine.cpus for machine in machines),
        "GPU": float(sum(machine.num_gpus for machine in machines)),
    }


def _machine(name: str, resources: Mapping[str, float], found: MachineGpus) -> Machine:
    num_gpus = int(resources.get("GPU", 0))
    gpu = Gpu(name="GPU", gib=None) if num_gpus else None
    if num_gpus and len(found.gpus) >= num_gpus:
        # The machine may have more GPUs than Ray uses. The smallest are assumed to be the unused ones, for example for a display.
        used = sorted(found.gpus, key=lambda gpu: -gpu.total_bytes)[:num_gpus]
        gpu = _gpu_of(used[-1])
    return Machine(name=name, cpus=resources.get("CPU", 0.0), num_gpus=num_gpus, gpu=gpu)


def _gpu_of(facts: GpuFacts) -> Gpu:
    """GPU with the memory of ``facts``, and the speed of its model's data sheet if GPUS has the model."""
    gib = facts.total_bytes / GIB
    words = re.findall(r"[A-Z0-9]+", facts.name.upper())
    names = {"".join(words[start:end]) for start in range(len(words)) for end in range(start + 1, len(words) + 1)}
    # The variants of a model (A100, A100-80G) differ in their memory.
    sheets = [sheet for sheet in GPUS.values() if sheet.name.split("-")[0] in names]
    nearest = min(sheets, key=lambda sheet: abs((sheet.gib or 0.0) - gib), default=Gpu(name="", gib=None))
    return replace(nearest, name=facts.name.removeprefix("NVIDIA "), gib=gib)


def _values(text: str) -> dict[str, str]:
    allowed = ("count", "cpus", "gpus", "gpu", "gpu_gib")
    values: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        if key not in allowed or not equals or key in values:
            raise ConfigError(
                f"--machine {text}: {part.strip()!r} is not one of {', '.join(f'{name}=...' for name in allowed)}, each once; "
                "an example: --machine cpus=96,gpus=8,gpu=H100"
            )
        values[key] = value.strip()
    return values


def _number(values: Mapping[str, str], key: str, text: str, *, default: float | None) -> float:
    if key not in values and default is not None:
        return default
    try:
        number = float(values[key])
    except (KeyError, ValueError):
        found = f"{key}={values[key]!r} is no number" if key in values else f"{key}=NUMBER is missing"
        raise ConfigError(f"--machine {text}: {found}") from None
    least = {"count": 1.0, "gpu_gib": 1.0}.get(key, 0.0)
    if not least <= number < 1e6 or (key in ("count", "gpus") and number != int(number)):
        raise ConfigError(f"--machine {text}: there is no machine with {key}={values[key]}")
    return number


def _gpu(values: Mapping[str, str], text: str) -> Gpu | None:
    if "gpu_gib" in values:
        gib = _number(values, "gpu_gib", text, default=None)
        known = _KNOWN.get(values.get("gpu", "").upper())
        return replace(known, gib=gib) if known else Gpu(name=values.get("gpu", "GPU"), gib=gib)
    if "gpu" not in values:
        return None
    known = _KNOWN.get(values["gpu"].upper())
    if known is None:
        raise ConfigError(
            f"--machine {text}: gpu={values['gpu']} is not known here (known: {', '.join(GPUS)}); "
            "add gpu_gib=NUMBER, its memory in GiB; the number of GPUs is gpus=NUMBER"
        )
    return known

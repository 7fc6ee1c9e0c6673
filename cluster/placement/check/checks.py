"""The checks of one node: the needs of a run compared with the facts of the node. Pure functions.

Ray may put a part of the run on any node that has room for it, so every such node needs what the part needs.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cluster.config.config import Config
from cluster.config.model_path import is_folder
from cluster.placement.check.node_facts import NodeFacts
from cluster.placement.plan.machines import Machine
from cluster.placement.plan.model_shape import GIB
from grader.toolchain import COMPAT
from learner.training.gpu import INSTALL, MIN_CAPABILITY, MIN_DRIVER, WITH_BFLOAT16

MIN_SHARED_MEMORY_GIB = 2
MIN_FREE_GIB = 5  # adapters, compiled code, Ray's objects that exceed its memory, checkpoints
ON_CPU = "or keep the run off its GPUs (gpus_per_sampler=0 learner.gpus=0, or start its Ray with --num-gpus=0)"


class Level(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARN = "warn"  # the run starts, and may fail or be slow
    FAIL = "FAIL"  # the run would fail


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One check of one node, or of the run as a whole."""

    place: str  # name of the node, or "run"
    name: str
    found: str
    wanted: str
    level: Level = Level.OK
    advice: str = ""  # of a check that is not ok


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """The parts of a run that may run on a node."""

    grades: bool
    loads: bool  # samplers or the learner
    uses_gpu: bool
    shares_memory: bool  # several processes of one part, or a GPU


def needs_of(config: Config, machine: Machine) -> Needs:
    """The parts that have room on a machine; ``config`` has its shares of GPUs filled in."""
    rollout, learner, grader = config.rollout, config.learner, config.grader
    parts = (
        (rollout.cpus_per_sampler, rollout.gpus_per_sampler, rollout.tensor_parallel_size),
        (learner.cpus, learner.gpus, learner.num_ranks),
    )
    here = [
        (gpus, processes) for cpus, gpus, processes in parts if machine.cpus >= cpus and (machine.num_gpus or not gpus)
    ]
    uses_gpu = any(gpus for gpus, _ in here)
    return Needs(
        grades=machine.cpus >= grader.cpus_per_grader,
        loads=bool(here),
        uses_gpu=uses_gpu,
        shares_memory=uses_gpu or any(processes > 1 for _, processes in here),
    )


def node_checks(
    config: Config, machine: Machine, facts: NodeFacts, *, versions: Mapping[str, str], download_gib: float
) -> list[Check]:
    """All checks of a node.

    ``versions`` are those of the packages on the driver's machine, ``download_gib`` is the size of a model of the hub.
    """
    place, needs = f"{machine.name} ({facts.host})", needs_of(config, machine)
    checks: list[Check] = []
    if needs.uses_gpu:
        checks += _gpu_checks(place, facts)
    if needs.loads:
        checks += [_versions(place, facts, versions), _model(place, config, facts)]
        if facts.downloads_model:
            checks.append(
                disk(place, "disk: models", *facts.hub_cache, needed_gib=download_gib, variable="HF_HOME"),
            )
    if needs.loads or needs.grades:
        checks.append(shared_memory(place, facts.shared_memory_bytes, needs))
        checks.append(disk(place, "disk: temporary", *facts.temporary, needed_gib=0.0, variable="TMPDIR"))
    if needs.grades:
        checks += _grading(place, config, facts)
    return checks


def _gpu_checks(place: str, facts: NodeFacts) -> Iterator[Check]:
    """Build, driver, capability and compiler of a node on whose GPUs a part may run."""
    wanted = "packages for a GPU"
    if facts.has_cuda_build:
        yield Check(place=place, name="packages", found="CUDA build", wanted=wanted)
    else:
        yield _failed(place, "packages", "CPU build", wanted, f"install them with `{INSTALL}`, {ON_CPU}")
    yield driver_check(place, facts)
    yield from _capabilities(place, facts)
    wanted = "Python.h and a C compiler"
    if facts.compiler_error is None:
        yield Check(place=place, name="compiler", found="compiles", wanted=wanted)
    else:
        release = ".".join(facts.versions.get("Python", "3.11").split(".")[:2])
        packages = f"install python{release}-dev and gcc (Debian, Ubuntu), or python{release}-devel and gcc (Red Hat)"
        yield _failed(place, "compiler", "does not compile", wanted, f"{facts.compiler_error}: {packages}, {ON_CPU}")


def driver_check(place: str, facts: NodeFacts) -> Check:
    """The version of NVIDIA's driver."""
    wanted = f"{MIN_DRIVER} or newer"
    if facts.gpus.error is not None or not facts.gpus.gpus:
        reason = facts.gpus.error or "it lists no GPU"
        return _failed(
            place, "driver", "does not answer", wanted, f"{reason}: install or repair NVIDIA's driver, {ON_CPU}"
        )
    driver = facts.gpus.gpus[0].driver
    if int(driver.split(".")[0]) >= MIN_DRIVER:
        return Check(place=place, name="driver", found=driver, wanted=wanted)
    return _failed(place, "driver", driver, wanted, f"update NVIDIA's driver, which is too old for CUDA 13, {ON_CPU}")


def _capabilities(place: str, facts: NodeFacts) -> Iterator[Check]:
    """One check for each kind of GPU. Next to a usable GPU a small one only warns: Ray may not use it."""
    wanted = f"capability {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]} or higher"
    kinds = Counter((gpu.name, gpu.compute_capability, round(gpu.total_bytes / GIB)) for gpu in facts.gpus.gpus)
    best = max((capability for _, capability, _ in kinds), default=MIN_CAPABILITY)
    for (name, capability, gib), number in kinds.items():
        found = f"{number} x {name}, {gib} GiB, capability {capability[0]}.{capability[1]}"
        if capability >= MIN_CAPABILITY:
            yield Check(place=place, name="GPU", found=found, wanted=wanted)
        elif best >= MIN_CAPABILITY:
            hide = "hide it from Ray with CUDA_VISIBLE_DEVICES, unless it is hidden already"
            yield Check(place=place, name="GPU", found=found, wanted=wanted, level=Level.WARN, advice=hide)
        else:
            yield _failed(place, "GPU", found, wanted, f"use a GPU with bfloat16 ({WITH_BFLOAT16}), {ON_CPU}")


def _versions(place: str, facts: NodeFacts, versions: Mapping[str, str]) -> Check:
    shown = ", ".join(f"{name} {versions[name]}" for name in ("torch", "vllm", "ray"))
    others = {name: facts.versions.get(name, "missing") for name in versions}
    different = [name for name, version in others.items() if version != versions[name]]
    if not different:
        return Check(place=place, name="versions", found=shown, wanted="those of the driver's machine")
    found = ", ".join(f"{name} {others[name]}" for name in different)
    wanted = ", ".join(f"{name} {versions[name]}" for name in different)
    return _failed(place, "versions", found, wanted, "run requirements/setup of the same Caravan there")


def _model(place: str, config: Config, facts: NodeFacts) -> Check:
    wanted = "readable, or on a hub that answers"
    if facts.model_error is None:
        return Check(place=place, name="model", found=config.model.path, wanted=wanted)
    everywhere = (
        "A folder of the submitting machine is not enough: put it where every machine can read it, or give a model of the hub"
        if is_folder(config.model.path)
        else "Every machine that loads the model needs the hub or a folder with the model"
    )
    return _failed(place, "model", "cannot be read", wanted, f"{facts.model_error}. {everywhere}")


def shared_memory(place: str, num_bytes: int, needs: Needs) -> Check:
    """The size of /dev/shm, which NCCL, the processes of an engine and Ray's object store use."""
    found = f"{num_bytes / GIB:.2g} GiB"
    if not needs.shares_memory:
        return Check(place=place, name="/dev/shm", found=found, wanted="any size")
    wanted = f"{MIN_SHARED_MEMORY_GIB} GiB"
    if num_bytes >= MIN_SHARED_MEMORY_GIB * GIB:
        return Check(place=place, name="/dev/shm", found=found, wanted=wanted)
    advice = "start the container with --shm-size=16g (docker), or mount a memory volume there (Kubernetes)"
    return Check(place=place, name="/dev/shm", found=found, wanted=wanted, level=Level.WARN, advice=advice)


def disk(place: str, name: str, folder: Path, free: int, *, needed_gib: float, variable: str) -> Check:
    """The free space of a folder: less than ``needed_gib`` fails, less than MIN_FREE_GIB more warns."""
    wanted_gib = needed_gib + MIN_FREE_GIB
    level = Level.OK if free >= wanted_gib * GIB else Level.WARN if free >= needed_gib * GIB else Level.FAIL
    return Check(
        place=place,
        name=name,
        found=f"{free / GIB:.0f} GiB free in {folder}",
        wanted=f"{wanted_gib:.0f} GiB",
        level=level,
        advice="" if level is Level.OK else f"make room in {folder}, or choose another folder ({variable})",
    )


def _grading(place: str, config: Config, facts: NodeFacts) -> Iterator[Check]:
    wanted = f"one of {', '.join(COMPAT)}"
    if not facts.can_grade:
        advice = f"graders may run there, but {facts.ocaml}; or start its Ray with --num-cpus=0"
        yield _failed(place, "OCaml", "cannot be used", wanted, advice)
        return
    yield Check(place=place, name="OCaml", found=facts.ocaml, wanted=wanted)
    wanted = "bubblewrap, seccomp, landlock"
    if facts.sandbox is None:
        yield _failed(
            place, "sandbox", "does not start", wanted, f"{facts.sandbox_error}; or start its Ray with --num-cpus=0"
        )
    elif not facts.sandbox.missing:
        yield Check(place=place, name="sandbox", found="all layers", wanted=wanted)
    else:
        required = config.grader.require_sandbox and not facts.sandbox.sandboxed
        yield Check(
            place=place,
            name="sandbox",
            found=f"missing: {', '.join(facts.sandbox.missing)}",
            wanted=wanted,
            level=Level.FAIL if required else Level.WARN,
            advice="the other layers hold (docs/security.md); to have all, install bubblewrap and allow user namespaces"
            + (", or do not require it (grader.require_sandbox)" if required else ""),
        )


def _failed(place: str, name: str, found: str, wanted: str, advice: str) -> Check:
    return Check(place=place, name=name, found=found, wanted=wanted, level=Level.FAIL, advice=advice)


def worst(checks: Sequence[Check]) -> Level:
    """The worst level of the checks."""
    levels = {check.level for check in checks}
    return next((level for level in (Level.FAIL, Level.WARN) if level in levels), Level.OK)

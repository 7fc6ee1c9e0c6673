"""What a node of the cluster has of what a run needs there, seen from that node; and what is wrong with it."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.config.config import Config
from cluster.config.model_path import is_folder
from cluster.errors import CaravanError
from cluster.placement.plan.machines import Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What one node sees."""

    host: str
    toolchain: str  # version of OCaml, or what is wrong with it
    grades: bool  # whether the grader's programs are built there
    sees_model: bool  # True for what is no folder: a model of the hub is not looked for


def look_around(config: Config) -> NodeFacts:
    """What this node has. Builds the grader's programs, which the run will find."""
    from grader.toolchain import prepare_toolchain

    try:
        toolchain, grades = prepare_toolchain().version, True
    except CaravanError as error:
        toolchain, grades = str(error), False
    return NodeFacts(
        host=socket.gethostname(),
        toolchain=toolchain,
        grades=grades,
        sees_model=not is_folder(config.model.path) or Path(config.model.path).expanduser().is_dir(),
    )


def troubles(config: Config, nodes: Sequence[tuple[Machine, NodeFacts]]) -> list[str]:
    """A line, with the way out, for everything that some node lacks that its part would need there.

    ``config`` has its shares of the GPUs filled in. Ray may put a part on any node that has room for it.
    """
    rollout, learner, grader = config.rollout, config.learner, config.grader
    lines = []
    for machine, facts in nodes:
        name = f"{machine.name} ({facts.host})"
        loads = _has_room(machine, learner.cpus, learner.gpus) or _has_room(
            machine, rollout.cpus_per_sampler, rollout.gpus_per_sampler
        )
        if machine.cpus >= grader.cpus_per_grader and not facts.grades:
            lines.append(f"{name}: graders may run there, but {facts.toolchain}; or start its Ray with --num-cpus=0")
        if loads and not facts.sees_model:
            lines.append(
                f"{name}: there is no folder {config.model.path} (model.path). A folder of the machine that submits is not "
                "enough: put it where every machine sees it, or give a model of the Hugging Face hub"
            )
    return lines


def _has_room(machine: Machine, cpus: float, gpus: float) -> bool:
    """Whether a part could lie on a machine; several GPUs of one part may lie on several machines."""
    return machine.cpus >= cpus and (machine.num_gpus > 0 or not gpus)

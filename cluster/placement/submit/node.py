"""Facts about one node of the cluster, and what a run needs there and lacks."""

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
    """Facts about one node that matter for a run."""

    host: str
    toolchain: str  # version of OCaml, or the error
    can_grade: bool  # the grader's programs are built
    has_model: bool  # also True for a model of the hub, which is not looked up


def inspect_node(config: Config) -> NodeFacts:
    """The facts of this node. Builds the grader's programs, which the run then uses."""
    from grader.toolchain import prepare_toolchain

    try:
        toolchain, can_grade = prepare_toolchain().version, True
    except CaravanError as error:
        toolchain, can_grade = str(error), False
    return NodeFacts(
        host=socket.gethostname(),
        toolchain=toolchain,
        can_grade=can_grade,
        has_model=not is_folder(config.model.path) or Path(config.model.path).is_dir(),
    )


def missing_on_nodes(config: Config, nodes: Sequence[tuple[Machine, NodeFacts]]) -> list[str]:
    """A line for each thing that a node lacks and a part of the run may need there, since Ray may put a part on any node.

    ``config`` has its shares of the GPUs filled in.
    """
    rollout, learner, grader = config.rollout, config.learner, config.grader
    lines = []
    for machine, facts in nodes:
        name = f"{machine.name} ({facts.host})"
        loads = _has_room(machine, learner.cpus, learner.gpus) or _has_room(
            machine, rollout.cpus_per_sampler, rollout.gpus_per_sampler
        )
        if machine.cpus >= grader.cpus_per_grader and not facts.can_grade:
            lines.append(f"{name}: graders may run there, but {facts.toolchain}; or start its Ray with --num-cpus=0")
        if loads and not facts.has_model:
            lines.append(
                f"{name}: there is no folder {config.model.path} (model.path). A folder of the submitting machine is not "
                "enough: put it where every machine can read it, or give a model of the Hugging Face hub"
            )
    return lines


def _has_room(machine: Machine, cpus: float, gpus: float) -> bool:
    """Return True if a part could run on a machine; the GPUs of one part may be on several machines."""
    return machine.cpus >= cpus and (machine.num_gpus > 0 or not gpus)

"""The processes that share the learner's steps, and what they tell each other.

Each rank holds the whole model and adapter, computes its share of a step's micro-batches, and then knows what all of them
found: gradients are summed, measures are gathered. So every rank takes the same optimizer step. TRL, accelerate and transformers
are not told: they read ranks from RANK and WORLD_SIZE, which nobody sets here, and each sees one process that is alone.

All ranks must call the same methods in the same order; one that does not come is waited for until the deadline that it was joined
with. A process joins once, for as long as it lives.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import psutil
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessGroup:
    """Which of how many ranks this process is."""

    number: int
    count: int

    def all_gather(self, mine: Item) -> list[Item]:
        """What every rank brings, by rank."""
        if self.count == 1:
            return [mine]
        found: list[Item] = [mine] * self.count
        dist.all_gather_object(found, mine)
        return found

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Put into each tensor the sum over the ranks, bit for bit the same on all of them; shapes and types must agree."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


SINGLE_RANK = ProcessGroup(number=0, count=1)


def open_rendezvous(host: str, count: int) -> TCPStore:
    """Where the ranks meet: on a free ``port`` of this machine, which all know as ``host``. Rank 0 opens it and keeps it."""
    return TCPStore(host, 0, world_size=count, is_master=True, wait_for_workers=False)


def join(
    number: int,
    count: int,
    meeting: TCPStore | tuple[str, int],
    *,
    host: str,
    uses_gpu: bool,
    deadline_seconds: float,
) -> ProcessGroup:
    """Meet the other ranks at the store of ``open_rendezvous`` (rank 0) or its host and port; returns when all are there.

    ``host`` is the address by which they reach this machine. Raises torch.distributed.DistError or RuntimeError where they do
    not come, or are not heard of, within the deadline.
    """
    timeout = timedelta(seconds=deadline_seconds)
    if isinstance(meeting, tuple):
        meeting = TCPStore(meeting[0], meeting[1], world_size=count, is_master=False, timeout=timeout)
    interface = interface_of(host)
    if interface is not None:  # else they go by the machine's name, which often means 127.0.1.1
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    backend = "cpu:gloo,cuda:nccl" if uses_gpu else "gloo"
    dist.init_process_group(backend, store=meeting, rank=number, world_size=count, timeout=timeout)
    return ProcessGroup(number=number, count=count)


def interface_of(host: str) -> str | None:
    """The network interface of this machine with the address ``host``."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == host for address in addresses):
            return str(name)
    return None

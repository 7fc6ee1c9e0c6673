"""Process group of the learner's ranks: rendezvous, gather and sum.

Each rank holds the whole model and adapter and computes its micro-batches of a step. Then gradients are summed and metrics are
gathered over all ranks, so every rank takes the same optimizer step. TRL, accelerate and transformers do not know of the group:
they read RANK and WORLD_SIZE, which are not set here, and each runs as a single process.

All ranks must call the same methods in the same order. A call that a rank does not join fails at the deadline of the group. A
process can join one group in its life.
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

BUCKET_NUMBERS = 64 * 1024**2
"""Numbers that ``all_reduce`` sends at a time: 256 MiB in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessGroup:
    """The group as one of its ranks sees it."""

    rank: int  # of this process
    world_size: int

    def all_gather(self, item: Item) -> list[Item]:
        """Return the items of all ranks, by rank."""
        if self.world_size == 1:
            return [item]
        items: list[Item] = [item] * self.world_size
        dist.all_gather_object(items, item)
        return items

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks, bit for bit the same on all; shapes and dtypes must agree.

        Tensors are sent together, about BUCKET_NUMBERS at a time, so that no second copy of all of them is needed.
        """
        if self.world_size == 1:
            return
        bucket: list[Tensor] = []
        for tensor in tensors:
            bucket.append(tensor)
            if sum(queued.numel() for queued in bucket) >= BUCKET_NUMBERS:
                _all_reduce(bucket)
                bucket = []
        _all_reduce(bucket)


def _all_reduce(tensors: Sequence[Tensor]) -> None:
    if not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


SINGLE_RANK = ProcessGroup(rank=0, world_size=1)


def open_rendezvous(host: str, world_size: int) -> TCPStore:
    """Open the ranks' rendezvous store on a free ``port`` of this machine, whose address is ``host``; rank 0 keeps it open."""
    return TCPStore(host, 0, world_size=world_size, is_master=True, wait_for_workers=False)


def join_process_group(
    rank: int,
    world_size: int,
    rendezvous: TCPStore | tuple[str, int],
    *,
    host: str,
    uses_gpu: bool,
    deadline_seconds: float,
) -> ProcessGroup:
    """Join the group at the store of ``open_rendezvous`` (rank 0) or its host and port; returns when all ranks have joined.

    ``host`` is the address of this machine for the other ranks. Raises torch.distributed.DistError or RuntimeError when ranks are
    missing or unreachable at the deadline.
    """
    timeout = timedelta(seconds=deadline_seconds)
    if isinstance(rendezvous, tuple):
        rendezvous = TCPStore(rendezvous[0], rendezvous[1], world_size=world_size, is_master=False, timeout=timeout)
    interface = interface_of(host)
    if interface is not None:  # else the backends resolve the machine's name, often to 127.0.1.1
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)
    backend = "cpu:gloo,cuda:nccl" if uses_gpu else "gloo"
    dist.init_process_group(backend, store=rendezvous, rank=rank, world_size=world_size, timeout=timeout)
    return ProcessGroup(rank=rank, world_size=world_size)


def interface_of(host: str) -> str | None:
    """Return the network interface of this machine with the address ``host``."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == host for address in addresses):
            return str(name)
    return None

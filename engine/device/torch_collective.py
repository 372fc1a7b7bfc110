"""Collectives of torch.distributed: NCCL between GPUs of one node, gloo between CPU processes.

The group is an object of its own: a process may be in several, and none is the default one.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor
from torch.distributed import AllreduceOptions, BroadcastOptions, GatherOptions, ProcessGroupGloo

Store = Any
"""A torch.distributed.Store, of which torch exports no type; nor of what groups can do."""

LOOPBACK = "127.0.0.1"
CONNECT_S = 120.0
"""How long ranks wait for each other when the group is made."""
COLLECTIVE_S = 600.0
"""How long one call may wait: recording a GPU's steps takes some ranks longer than others."""


class TorchCollective:
    """See engine.device.collective.Collective; `connect` comes before everything else.

    On a GPU all calls are launched on the current stream, and may be part of a CUDA graph.
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size

    def connect(self, store: Store, device: torch.device) -> None:
        """Meet the other ranks, which do the same. RuntimeError when they do not come."""
        store.set_timeout(timedelta(seconds=CONNECT_S))
        make = _gloo if device.type == "cpu" else _nccl
        self._group = make(store, self.rank, self.size, device)
        # On the current stream, not on one of NCCL's own.
        self._sum, self._from_first = AllreduceOptions(), BroadcastOptions()
        self._to_first = GatherOptions()
        for options in (self._sum, self._from_first, self._to_first):
            options.asyncOp = False

    def all_reduce(self, tensor: Tensor) -> Tensor:
        _wait(self._group.allreduce([tensor], self._sum))
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(tensor) for _ in range(self.size)] if self.rank == 0 else []
        _wait(self._group.gather([parts] if parts else [], [tensor], self._to_first))
        return parts

    def broadcast(self, tensor: Tensor) -> None:
        _wait(self._group.broadcast([tensor], self._from_first))


def _wait(work: Any) -> None:
    """Until the stream, or on a CPU the caller, may go on; NCCL's calls see to that themselves."""
    if work is not None:
        work.wait()


def open_store(path: str, size: int) -> Store:
    """The store of ranks on one machine: a file that all of them can open."""
    return distributed.FileStore(path, size)  # type: ignore[attr-defined]


def _gloo(store: Store, rank: int, size: int, device: torch.device) -> Any:
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [ProcessGroupGloo.create_device(hostname=LOOPBACK)]
    options._timeout = timedelta(seconds=COLLECTIVE_S)
    return ProcessGroupGloo(store, rank, size, options)


def _nccl(store: Store, rank: int, size: int, device: torch.device) -> Any:
    """The communicator is made now, since none can be made while a graph is recorded."""
    from torch.distributed import ProcessGroupNCCL  # a torch without CUDA has none

    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")  # its sockets are not for the network
    options = ProcessGroupNCCL.Options()
    options._timeout = timedelta(seconds=COLLECTIVE_S)
    group = ProcessGroupNCCL(store, rank, size, options)
    group.eager_connect_single_device(device)
    return group

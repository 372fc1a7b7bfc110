"""What a follower that is ready to compute offers to those who add services to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from engine.runner import CacheRegion
from engine.torch_runner import TorchRunner
from kv_transfer.calls import Handler
from worker.config import WorkerConfig


@dataclass(frozen=True, slots=True)
class Post:
    """One rank that follows, with its part of the model and of the cache."""

    rank: int
    size: int
    config: WorkerConfig
    runner: TorchRunner
    region: CacheRegion
    num_blocks: int
    """Of the region, all that rank 0 asked for."""
    notify: Callable[[msgspec.Struct], None]
    """Tells rank 0 something unasked, from any thread; see Team.on_notice."""
    crash: Callable[[Exception], None]
    """Ends this process, and so the worker; from any thread."""


class Services(Protocol):
    """What a follower does beside its steps."""

    handlers: Mapping[type[msgspec.Struct], Handler]
    """By kind of message, for which they are called in one thread, in the order sent; messages
    are told apart by their class's name."""

    def close(self) -> None:
        """When rank 0 ends in peace."""
        ...

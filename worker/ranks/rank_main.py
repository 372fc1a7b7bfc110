"""A rank other than 0, in a process of its own: it carries out orders until rank 0 is gone."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn, Protocol

import msgspec
import torch

from engine.device.torch_collective import TorchCollective, open_store
from engine.errors import EngineError
from engine.runner import CacheRegion
from engine.runners.torch_runner import TorchRunner
from kv_transfer.endpoints.remote_rank_messages import Handler
from kv_transfer.endpoints.remote_rank_server import RankService
from runtime.process import freeze_loaded_objects
from wire.identity import draw_incarnation
from worker.config import WorkerConfig
from worker.rank.load_runner import load_runner
from worker.rank.transport import NUM_SCRATCH_BLOCKS, make_rank_endpoint, worker_layout
from worker.ranks.calls import Callee
from worker.ranks.heartbeat import answer
from worker.ranks.line import Line
from worker.ranks.orders import (
    Allocate,
    Answer,
    Connect,
    CopyBlock,
    Done,
    Fit,
    Leave,
    LoadModel,
    Order,
    PrepareSteps,
    Refused,
    RunStep,
)
from worker.ranks.step_orders import StepReader

QUIET_S = 0.5
log = logging.getLogger(__name__)
_encode = msgspec.msgpack.Encoder().encode
_decode_order: Callable[[bytes], Order] = msgspec.msgpack.Decoder(Order).decode


def run_rank(rank: int, size: int, orders: int, calls: int, pulse: int, meeting: int) -> NoReturn:
    """The numbers of the files that rank 0 has opened: three sockets, and where ranks meet."""
    asked = socket.socket(fileno=pulse)
    threading.Thread(target=answer, args=[asked], name="pulse", daemon=True).start()
    order_line, call_line = (Line(socket.socket(fileno=number)) for number in (orders, calls))
    callee = Callee(call_line)
    threading.Thread(target=_listen, args=[rank, callee], name="calls", daemon=True).start()
    try:
        _RankMain(rank, size, f"/proc/self/fd/{meeting}", callee).obey(order_line)
    except Exception as error:  # noqa: BLE001  # the others must not wait for this rank
        time.sleep(QUIET_S)  # if another rank is gone, this one is ended now, without a word
        _crash(rank, error)
    os._exit(0)  # what torch would put away at the end is put away with the process


def _listen(rank: int, callee: Callee) -> None:
    """Also when the main thread waits in a collective, for a rank that is not coming."""
    try:
        callee.listen()
    except Exception as error:  # noqa: BLE001  # a service that fails is a rank that fails
        _crash(rank, error)
    os._exit(1)


def _crash(rank: int, error: Exception) -> NoReturn:
    log.error("rank %d ends", rank, exc_info=error)
    os._exit(1)


class _RankMain:
    """Lives in the main thread."""

    def __init__(self, rank: int, size: int, meeting: str, callee: Callee) -> None:
        self._rank = rank
        self._size = size
        self._meeting = meeting
        self._callee = callee
        self._collective = TorchCollective(rank, size)
        self._steps = StepReader()
        self._services: Services | None = None

    def obey(self, line: Line) -> None:
        """Until rank 0 says that it is over, or is gone."""
        while (frame := line.receive()) is not None:
            order = _decode_order(frame)
            if isinstance(order, Leave):
                break
            if isinstance(order, RunStep):
                self._runner.follow(self._steps.read(order), by_layers=order.by_layers)
            else:
                line.send(_encode(self._answer(order)))
        if self._services is not None:
            self._services.close()

    def _answer(self, order: Order) -> Answer:
        try:
            return Done(self._carry_out(order) or 0)
        except EngineError as error:
            return Refused(str(error))

    def _carry_out(self, order: Order) -> int | None:
        match order:
            case LoadModel():
                self._load(order.config)
            case Connect():
                store = open_store(self._meeting, self._size)
                self._collective.connect(store, self._runner.device)
            case Fit():
                return self._runner.fit_num_blocks(order.cache_bytes, order.cache_fraction)
            case Allocate():
                self._region = self._runner.allocate_only(order.num_blocks)
                self._num_blocks = order.num_blocks
            case PrepareSteps():
                self._runner.record_own_steps()
                self._serve()
            case CopyBlock():
                self._runner.copy_block(order.source, order.target)
        return None

    def _load(self, config: WorkerConfig) -> None:
        self._config = config
        self._runner: TorchRunner = load_runner(config, lambda *progress: None, self._collective)
        if self._runner.device.type == "cuda":
            torch.cuda.set_device(self._runner.device)

    def _serve(self) -> None:
        post = Post(
            rank=self._rank,
            size=self._size,
            config=self._config,
            runner=self._runner,
            region=self._region,
            num_blocks=self._num_blocks,
            notify=self._callee.notify,
            crash=lambda error: _crash(self._rank, error),
        )
        self._services = make_services(post)
        self._callee.serve(self._services.handlers)
        freeze_loaded_objects()


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


def make_services(post: Post) -> Services:
    """Called once, when the cache is there. Raises ConfigError for the transport."""
    endpoint = make_rank_endpoint(
        post.config,
        f"{post.config.worker_id or 'worker'}/{post.rank}#{draw_incarnation():x}",
        post.runner,
        post.region,
        post.num_blocks - NUM_SCRATCH_BLOCKS,
        worker_layout(post.runner.layout, post.size),
        post.rank,
    )
    return RankService(endpoint, post.notify, post.crash)

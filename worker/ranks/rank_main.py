"""The process of a rank other than 0: it carries out orders until rank 0 ends."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import NoReturn

import msgspec

from engine.device.torch_collective import TorchCollective, open_store
from engine.errors import EngineError
from engine.runners.torch_runner import TorchRunner
from kv_transfer.endpoints.remote_rank_server import RankService
from runtime.process import freeze_loaded_objects
from wire.identity import draw_incarnation
from worker.fitted_config import FittedConfig
from worker.rank.load_runner import load_runner
from worker.rank.transport import NUM_SCRATCH_BLOCKS, make_rank_endpoint, worker_layout
from worker.ranks.calls import CallServer
from worker.ranks.heartbeat import answer_heartbeats
from worker.ranks.message_socket import MessageSocket
from worker.ranks.orders import (
    AllocateBlocks,
    Answer,
    ConnectRanks,
    CopyBlock,
    Done,
    FitBlocks,
    LoadModel,
    Order,
    PrepareSteps,
    Refused,
    RunStep,
    Shutdown,
)
from worker.ranks.step_orders import StepReader

CRASH_DELAY_S = 0.5
"""If another rank has ended, rank 0 kills this one within that time, before it logs an error."""
log = logging.getLogger(__name__)
_encode = msgspec.msgpack.Encoder().encode
_decode_order: Callable[[bytes], Order] = msgspec.msgpack.Decoder(Order).decode


def run_rank(
    rank: int, size: int, orders_fd: int, calls_fd: int, heartbeats_fd: int, store_fd: int
) -> NoReturn:
    """Run a rank in this process, until rank 0 ends.

    The last four are file descriptors that rank 0 has opened: three sockets, and the file in which
    the ranks' collectives find each other.
    """
    orders, calls, heartbeats = (
        socket.socket(fileno=number) for number in (orders_fd, calls_fd, heartbeats_fd)
    )
    _start_thread("heartbeats", lambda: answer_heartbeats(heartbeats))
    call_server = CallServer(MessageSocket(calls))
    _start_thread("calls", lambda: _answer_calls(rank, call_server))
    try:
        main = _RankMain(rank, size, f"/proc/self/fd/{store_fd}", call_server)
        main.run(MessageSocket(orders))
    except Exception as error:  # noqa: BLE001  # the others must not wait for this rank
        time.sleep(CRASH_DELAY_S)
        _crash(rank, error)
    os._exit(0)  # torch's own cleanup is left to the end of the process


def _start_thread(name: str, work: Callable[[], None]) -> None:
    threading.Thread(target=work, name=name, daemon=True).start()


def _answer_calls(rank: int, calls: CallServer) -> None:
    """Ends the process with rank 0, even while the main thread waits in a collective."""
    try:
        calls.receive_all()
    except Exception as error:  # noqa: BLE001  # a service that fails is a rank that fails
        _crash(rank, error)
    os._exit(1)


def _crash(rank: int, error: Exception) -> NoReturn:
    log.error("rank %d ends", rank, exc_info=error)
    os._exit(1)


class _RankMain:
    """Carries out rank 0's orders. Lives in the main thread."""

    def __init__(self, rank: int, size: int, store_file: str, calls: CallServer) -> None:
        self._rank = rank
        self._size = size
        self._store_file = store_file
        self._calls = calls
        self._collective = TorchCollective(rank, size)
        self._steps = StepReader()
        self._service: RankService | None = None

    def run(self, orders: MessageSocket) -> None:
        """Until rank 0 orders the end, or has ended."""
        while (frame := orders.receive()) is not None:
            order = _decode_order(frame)
            if isinstance(order, Shutdown):
                break
            if isinstance(order, RunStep):
                self._runner.follow(self._steps.read(order), by_layers=order.by_layers)
            else:
                orders.send(_encode(self._answer(order)))
        if self._service is not None:
            self._service.close()

    def _answer(self, order: Order) -> Answer:
        try:
            return Done(self._carry_out(order) or 0)
        except EngineError as error:
            return Refused(str(error))

    def _carry_out(self, order: Order) -> int | None:
        match order:
            case LoadModel():
                self._load(order.config)
            case ConnectRanks():
                store = open_store(self._store_file, self._size)
                self._collective.connect(store, self._runner.device)
            case FitBlocks():
                return self._runner.fit_num_blocks(order.cache_bytes, order.cache_fraction)
            case AllocateBlocks():
                self._region = self._runner.allocate_only(order.num_blocks)
                self._num_blocks = order.num_blocks
            case PrepareSteps():
                self._runner.capture_own_steps()
                self._serve()
            case CopyBlock():
                self._runner.copy_block(order.source, order.target)
        return None

    def _load(self, config: FittedConfig) -> None:
        self._config = config
        self._runner: TorchRunner = load_runner(config, lambda *progress: None, self._collective)

    def _serve(self) -> None:
        endpoint = make_rank_endpoint(
            self._config,
            f"{self._config.worker_id or 'worker'}/{self._rank}#{draw_incarnation():x}",
            self._runner,
            self._region,
            self._num_blocks - NUM_SCRATCH_BLOCKS,
            worker_layout(self._runner.layout, self._size),
            self._rank,
        )
        self._service = RankService(
            endpoint, self._calls.notify, lambda error: _crash(self._rank, error)
        )
        self._calls.serve(self._service.handlers, endpoint.bind_thread)
        freeze_loaded_objects()

"""The send ends of rank pairs over UCX: writes in frames, each of which the peer acknowledges."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import numpy as np

from kv_transfer.errors import LinkFailed
from kv_transfer.layout.spans import Offsets
from kv_transfer.transports.ucx.frames import FRAME_BYTES, Bytes, pack, split_frames
from kv_transfer.transports.ucx.receiver import GREETING
from kv_transfer.transports.ucx.ucx_worker import UcxError, UcxWorker, describe

CONNECT_S = 2.0
"""How long a peer may take to answer a greeting."""

SETTLE_S = 0.1
"""How long `SendEnd.destroy` waits for frames to leave. A stopped peer does not take them."""

MAX_FRAMES = 4
"""Frames of one rank pair that are sent and not yet acknowledged."""


class UcxTransfer:
    """A write under way; polling it drives its rank pair."""

    def __init__(self, end: SendEnd, memory: Bytes, spans: Offsets) -> None:
        self._end = end
        self.memory = memory
        self.parts = deque(split_frames(spans))
        self.num_under_way = 0
        self.cause: str | None = None

    @property
    def landed(self) -> bool:
        return not self.parts and not self.num_under_way and self.cause is None

    def done(self) -> bool:
        if not self.landed:
            self._end.turn()
        if not self.landed and (self.cause or self._end.cause):
            raise LinkFailed(f"write to {self._end.pair}: {self.cause or self._end.cause}")
        return self.landed


class _SendBuffer:
    """The buffer of one frame under way; it is free while it has no transfer."""

    def __init__(self) -> None:
        self.frame = np.empty(FRAME_BYTES, np.uint8)
        self.request: Any = None
        self.transfer: UcxTransfer | None = None
        self.acknowledged = False


class SendEnd:
    """The end of a rank pair at which frames are sent; driven by the thread that writes."""

    def __init__(self, pair: str, worker: UcxWorker, block_bytes: int) -> None:
        self.pair = pair
        self.block_bytes = block_bytes
        self.cause: str | None = None
        self._worker = worker
        self._buffers = [_SendBuffer() for _ in range(MAX_FRAMES)]
        self._waiting: deque[UcxTransfer] = deque()
        self._answer = np.empty(2, np.int64)
        self._answered = worker.receive(self._answer)
        self._greeted = False

    def open(self, address: bytes) -> None:
        """Tell the peer where to answer, and wait until it does. Raises LinkFailed or UcxError."""
        self._worker.connect(address)
        self._send_greeting()
        deadline = time.monotonic() + CONNECT_S
        while not self._greeted:
            self.turn()
            if time.monotonic() > deadline:
                self.cause = f"no answer within {CONNECT_S} s"
            if self.cause is not None:
                raise LinkFailed(self.cause)
            time.sleep(0.0001)

    def write(self, memory: Bytes, spans: Offsets) -> UcxTransfer:
        transfer = UcxTransfer(self, memory, spans)
        self._waiting.append(transfer)
        self.turn()
        return transfer

    def turn(self) -> None:
        """Free the buffers of acknowledged frames, and send the next frames from them."""
        if self.cause is not None:
            return
        try:
            self._worker.progress()
            self._take_answers()
            self._free_buffers()
            self._fill_buffers()
        except UcxError as error:
            self.cause = describe(error)
        if self.cause is None and not self._worker.alive:
            self.cause = "the peer is gone"

    def destroy(self, cause: str) -> None:
        self.cause = self.cause or cause
        self._waiting.clear()
        self._settle()
        self._worker.hang_up()
        for buffer in self._buffers:
            buffer.request = buffer.transfer = None
        # The worker goes before the memory of the buffers.
        del self._answered, self._worker

    def _settle(self) -> None:
        """Wait for frames to leave: ucxx leaks a worker that hangs up while it sends."""
        deadline = time.monotonic() + SETTLE_S
        requests = [buffer.request for buffer in self._buffers if buffer.request is not None]
        while not all(request.completed for request in requests) and time.monotonic() < deadline:
            self._worker.progress()

    def _send_greeting(self) -> None:
        """Send the length and bytes of our worker's address."""
        address = self._worker.address
        greeting = len(address).to_bytes(2, "little") + address
        frame = self._buffers[0].frame[: len(greeting)]
        frame[:] = np.frombuffer(greeting, np.uint8)
        # The greeting is answered before buffer 0 is used again.
        self._buffers[0].request = self._worker.send(frame, greeting=True)

    def _take_answers(self) -> None:
        while self._answered.completed:
            self._answered.check_error()
            number, refused = self._answer.tolist()
            self._answered = self._worker.receive(self._answer)
            if number == GREETING:
                self._greeted = True
            elif 0 <= number < MAX_FRAMES:
                self._take_answer(self._buffers[number], refused)
            else:
                self.cause = f"the peer answers to frame {number}"

    def _take_answer(self, buffer: _SendBuffer, refused: int) -> None:
        buffer.acknowledged = True
        if refused and buffer.transfer is not None:
            buffer.transfer.cause = "refused: it leads outside the peer's pool"
            buffer.transfer.parts.clear()

    def _free_buffers(self) -> None:
        for buffer in self._buffers:
            if buffer.transfer is None or not buffer.request.completed:
                continue
            buffer.request.check_error()
            if buffer.acknowledged:
                buffer.transfer.num_under_way -= 1
                buffer.request = buffer.transfer = None

    def _fill_buffers(self) -> None:
        for number, buffer in enumerate(self._buffers):
            while self._waiting and not self._waiting[0].parts:
                self._waiting.popleft()
            if self._waiting and buffer.transfer is None:
                self._send(number, buffer, self._waiting[0])

    def _send(self, number: int, buffer: _SendBuffer, transfer: UcxTransfer) -> None:
        frame = pack(number, transfer.memory, transfer.parts.popleft(), buffer.frame)
        buffer.transfer, buffer.acknowledged = transfer, False
        transfer.num_under_way += 1
        buffer.request = self._worker.send(frame)

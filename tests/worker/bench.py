"""Two step loops, driven by hand in one thread: no clock, no network, and every fault on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from decode_worker.scheduler import DecodePolicy
from engine.arithmetic import ArithmeticRunner, next_token
from engine.blocks import BlockPool
from engine.engine import Engine
from engine.policy import Policy
from kv_transfer.courier import WriteJob
from kv_transfer.memory_link import MemoryFabric, MemoryLink
from kv_transfer.transport import Transfer, TransferError
from prefill_worker.scheduler import PrefillPolicy
from wire.handoff import Handoff
from wire.identity import Leg, WorkerRef
from wire.messages import (
    Destination,
    Failed,
    Handed,
    Kept,
    Message,
    Output,
    Prefilled,
    Step,
    Submit,
)
from wire.sampling import SamplingParams
from worker.config import RunnerKind, WorkerConfig
from worker.loop import StepLoop

PREFILL_STAMP, DECODE_STAMP = 1, 2
CONFIG = WorkerConfig(model="arithmetic", runner=RunnerKind.ARITHMETIC)


class HandCourier:
    """A courier without a thread: writes are looked at when the bench says so."""

    def __init__(self, link: MemoryLink, clock: Callable[[], float]) -> None:
        self._link = link
        self._clock = clock
        self._flights: list[tuple[WriteJob, Transfer, float]] = []

    def write(self, job: WriteJob) -> None:
        started = self._clock()
        try:
            self._flights.append((job, self._link.write(job.peer, job.blocks, job.pages), started))
        except TransferError as error:
            job.on_done(started, started, str(error))

    def look(self) -> None:
        flights, self._flights = self._flights, []
        for job, transfer, started in flights:
            try:
                done, cause = transfer.done(), None
            except TransferError as error:
                done, cause = True, str(error)
            if done:
                job.on_done(started, self._clock(), cause)
            else:
                self._flights.append((job, transfer, started))


class HandOutbox:
    """Keeps what is said until the bench delivers it."""

    def __init__(self) -> None:
        self.for_router: list[Message] = []
        self.for_peers: list[tuple[Destination, Handoff]] = []

    def to_router(self, router_id: str, message: Message) -> None:
        self.for_router.append(message)

    def to_routers(self, message: Message) -> None:
        """Load and cache events are not what these tests look at."""

    def to_peer(self, peer: Destination, message: Handoff) -> None:
        self.for_peers.append((peer, message))

    def flush(self) -> None:
        """Delivery is the bench's business."""


class Station:
    """One worker: its loop, and what it is connected to."""

    def __init__(
        self, bench: Bench, name: str, stamp: int, policy: Policy, num_blocks: int
    ) -> None:
        self.ref = WorkerRef(name, 1)
        self.address = Destination(self.ref, "")
        runner = ArithmeticRunner(stamp=stamp, block_size=4)
        self.link = MemoryLink(str(self.ref), bench.fabric)
        self.link.register(runner.allocate(num_blocks), num_blocks)
        self.courier = HandCourier(self.link, bench.clock)
        self.outbox = HandOutbox()
        self.pool = BlockPool(num_blocks)
        self.engine = Engine(runner, self.pool, policy)
        self.loop = StepLoop(
            self.ref,
            "fingerprint",
            CONFIG,
            self.engine,
            self.courier,  # type: ignore[arg-type]
            self.outbox,
            on_crash=_raise,
            clock=bench.clock,
        )


@dataclass
class Bench:
    """A prefill and a decode worker. `run` turns everything until nothing moves any more."""

    num_blocks: int = 64
    decode_blocks: int | None = None
    chunk_tokens: int = 8
    fabric: MemoryFabric = field(default_factory=MemoryFabric)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.prefill = Station(
            self, "prefill", PREFILL_STAMP, PrefillPolicy(self.chunk_tokens), self.num_blocks
        )
        decode_blocks = self.decode_blocks or self.num_blocks
        self.decode = Station(self, "decode", DECODE_STAMP, DecodePolicy(), decode_blocks)
        self.stations = (self.prefill, self.decode)
        self.prefill.link.connect(str(self.decode.ref), self.decode.link.metadata())
        self.received: list[Message] = []

    def clock(self) -> float:
        return self.now

    def submit(
        self,
        request_id: str,
        prompt: list[int],
        max_tokens: int = 4,
        *,
        alone: bool = False,
        deadline_s: float | None = None,
    ) -> Leg:
        leg = Leg(request_id)
        submit = Submit(
            leg=leg,
            tokens=tuple(prompt),
            num_prompt=len(prompt),
            sampling=SamplingParams(max_tokens=max_tokens),
            destination=None if alone else self.decode.address,
            deadline_s=deadline_s,
        )
        self.prefill.loop.submit("router", submit)
        return leg

    def cancel(self, leg: Leg) -> None:
        for station in self.stations:
            station.loop.cancel(leg)

    def run(self, num_turns: int = 1000) -> None:
        """Turn until quiet, or `num_turns` times."""
        for _ in range(num_turns):
            if not self.turn():
                return

    def turn(self) -> bool:
        moved = self.deliver()
        for station in self.stations:
            station.courier.look()
            moved |= station.loop.turn()
        return self.deliver() or moved

    def deliver(self) -> bool:
        moved = False
        for sender, receiver in (self.stations, self.stations[::-1]):
            self.received += sender.outbox.for_router
            sender.outbox.for_router.clear()
            messages, sender.outbox.for_peers = sender.outbox.for_peers, []
            for _, message in messages:
                receiver.loop.receive(message, sender.address)
                moved = True
        return moved

    def tokens(self, leg: Leg) -> list[int]:
        """What the router would stream: by position, none twice, none missing."""
        merged: dict[int, int] = {}
        for output in self.outputs(leg):
            for offset, token in enumerate(output.tokens):
                assert merged.setdefault(output.position + offset, token) == token
        assert list(merged) == sorted(merged)
        return [merged[position] for position in sorted(merged)]

    def outputs(self, leg: Leg) -> list[Output]:
        steps = [message for message in self.received if isinstance(message, Step)]
        return [output for step in steps for output in step.outputs if output.leg == leg]

    def told(self, kind: type[Handed | Kept | Failed | Prefilled]) -> list[Message]:
        return [message for message in self.received if isinstance(message, kind)]

    def check_nothing_is_held(self) -> None:
        for station in self.stations:
            station.pool.check_integrity()
            assert station.pool.num_free == station.pool.num_blocks, station.ref
            assert station.loop.idle, station.ref


def expected(prompt: list[int], stamps: list[int], vocab_size: int = 2048) -> list[int]:
    """The answer when token i is made by the worker with stamps[i]."""
    tokens = list(prompt)
    for stamp in stamps:
        tokens.append(next_token(tokens, stamp, vocab_size))
    return tokens[len(prompt) :]


def _raise(error: Exception) -> None:
    raise error

"""Two step loops, driven by hand in one thread: no clock, no network, and every fault on demand."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from decode_worker.scheduler import DecodePolicy
from engine.async_engine import AsyncEngine
from engine.cache.block_copier import HostCopier, allocate_host
from engine.cache.block_pool import BlockPool
from engine.cache.host_tier import HostTier
from engine.engine import Engine
from engine.runner import Runner
from engine.runners.arithmetic_runner import ArithmeticRunner, next_token
from engine.schedule.policy import Policy
from kv_transfer.endpoints.endpoint import PeerPool
from kv_transfer.layout.region import CacheRegion
from kv_transfer.transports.memory import MemoryFabric, MemoryTransport
from kv_transfer.transports.probe import LinkSpeed, Probe, Scratch
from kv_transfer.transports.transport import Transport
from prefill_worker.scheduler import PrefillPolicy
from tests.kv_transfer.in_process import HandEndpoint, joined
from tests.worker.spread_runner import SpreadRunner
from wire.handoff import Handoff
from wire.identity import AttemptId, WorkerRef
from wire.messages import (
    Destination,
    Failed,
    Handed,
    Kept,
    Message,
    Output,
    Prefilled,
    StepOutputs,
    Submit,
)
from wire.sampling import SamplingParams
from wire.traits import NO_TRAITS, RequestTraits
from worker.config import RunnerKind, WorkerConfig
from worker.steps.step_context import Peer, StepContext
from worker.steps.step_loop import StepLoop

PREFILL_STAMP, DECODE_STAMP = 1, 2
CONFIG = WorkerConfig(model="arithmetic", runner=RunnerKind.ARITHMETIC)


class HandOutbox:
    """Keeps what is said until the bench delivers it."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.for_router: list[Message] = []
        self.for_peers: list[tuple[str, Handoff]] = []

    def to_router(self, router_id: str, message: Message) -> None:
        self.for_router.append(message)

    def to_routers(self, message: Message) -> None:
        """Load and cache events are not what these tests look at."""

    def to_worker(self, peer: Destination, message: Handoff) -> None:
        self.for_peers.append((self._bench.link, message))

    def over_link(self, link: str, message: Handoff) -> None:
        self.for_peers.append((link, message))

    def cut_link(self, link: str, cause: str) -> None:
        self._bench.links_to_cut.append((link, cause))

    def flush(self) -> None:
        """Delivery is the bench's business."""


class Station:
    """One worker: its loop, and what it is connected to."""

    def __init__(
        self,
        bench: Bench,
        name: str,
        stamp: int,
        policy: Policy,
        num_blocks: int,
        block_size: int = 4,
        runner: Runner | None = None,
    ) -> None:
        self.ref = WorkerRef(name, 1)
        self.address = Destination(self.ref, "")
        runner = runner or ArithmeticRunner(
            stamp=stamp, block_size=block_size, runs_ahead=bench.ahead
        )
        pool = runner.allocate(num_blocks)
        regions = runner.regions if isinstance(runner, SpreadRunner) else [pool]
        self.ranks = [
            self._rank(bench, number, runner, region, num_blocks, len(regions))
            for number, region in enumerate(regions)
        ]
        self.endpoint = joined(self.ranks)
        self.endpoint.start(bench.note_link_to_cut, _raise)
        self.outbox = bench.make_outbox(name)
        self.runner = runner
        self.memory = pool
        self.pool = BlockPool(num_blocks)
        self.copier, tier = None, None
        if bench.host_blocks:
            host = allocate_host(bench.host_blocks * runner.layout.block_bytes)
            self.copier = HostCopier(pool, host, runner.layout.block_bytes)
            tier = HostTier(self.pool, bench.host_blocks, runner.layout, self.copier, bench.clock)
        kind = AsyncEngine if runner.runs_ahead else Engine
        self.engine = kind(runner, self.pool, policy, None, tier)
        context = StepContext(
            self.ref, "content", CONFIG, self.engine, self.endpoint, self.outbox, bench.clock
        )
        self.loop = StepLoop(context, on_crash=_raise)

    @property
    def at_rest(self) -> bool:
        return self.loop.idle and not self.engine.busy

    def rank_name(self, rank: int) -> str:
        """What the fabric calls it."""
        return f"{self.ref}/{rank}" if rank else str(self.ref)

    def carry(self) -> None:
        """Let the transfer threads of all ranks take a turn."""
        for rank in self.ranks:
            rank.transfer_thread.turn()

    def copy(self) -> None:
        """Make one of the copies to or from host memory that wait."""
        if self.copier is not None:
            self.copier.turn()

    def _rank(
        self,
        bench: Bench,
        number: int,
        runner: Runner,
        region: CacheRegion,
        num_blocks: int,
        num_ranks: int,
    ) -> HandEndpoint:
        transport = bench.transport(self.rank_name(number))
        staging = a_staging(region.num_bytes)
        transport.register(region, num_blocks, staging)
        checksum = runner.checksums[number] if isinstance(runner, SpreadRunner) else runner.checksum
        layout = msgspec.structs.replace(runner.layout, num_ranks=num_ranks)
        return HandEndpoint(
            layout, number, num_blocks, region, staging, checksum, transport, start_probe=unmeasured
        )


def a_staging(num_bytes: int) -> CacheRegion:
    memory = bytearray(num_bytes)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return CacheRegion(address, num_bytes, "cpu", memory)


def unmeasured(transport: Transport, link: str, scratch: Scratch) -> Probe:
    yield from ()
    return LinkSpeed(0.0, 0.0)


@dataclass
class Bench:
    """A prefill and a decode worker. `run` turns everything until nothing moves any more."""

    num_blocks: int = 64
    decode_blocks: int | None = None
    prefill_block_size: int = 4
    decode_block_size: int = 4
    prefill_runner: Runner | None = None
    decode_runner: Runner | None = None
    chunk_tokens: int = 8
    ahead: bool = False
    """Whether steps are launched while the one before is computed."""
    host_blocks: int = 0
    """Of host memory behind each cache."""
    fabric: MemoryFabric = field(default_factory=MemoryFabric)
    now: float = 0.0
    make_transport: Callable[[str], Transport] | None = None
    """Of memory where it is None."""

    def __post_init__(self) -> None:
        self.num_links = 0
        self.links_to_cut: list[tuple[str, str]] = []
        self.prefill = Station(
            self,
            "prefill",
            PREFILL_STAMP,
            PrefillPolicy(self.chunk_tokens),
            self.num_blocks,
            self.prefill_block_size,
            self.prefill_runner,
        )
        self.decode = Station(
            self,
            "decode",
            DECODE_STAMP,
            DecodePolicy(),
            self.decode_blocks or self.num_blocks,
            self.decode_block_size,
            self.decode_runner,
        )
        self.stations = (self.prefill, self.decode)
        self.received: list[Message] = []
        self.open_link()

    def break_link(self, cause: str = "connection reset") -> None:
        """The session ends, and the link with it; another takes its place."""
        self.source_hears_the_link_end(cause)
        self.destination_hears_the_link_end(cause)
        self.open_link()

    def source_hears_the_link_end(self, cause: str) -> None:
        peer = Peer(self.decode.ref, self.link)
        self.prefill.loop.source_handoffs.peer_lost(peer, cause)
        self.prefill.endpoint.disconnect(self.link, lambda: None)
        self.prefill.carry()

    def destination_hears_the_link_end(self, cause: str) -> None:
        incoming = self.decode.loop.destination_handoffs
        lost = incoming.source_lost(self.link, cause)
        self.decode.endpoint.evict(self.link, lambda: incoming.source_fenced(lost))
        self.decode.carry()

    def open_link(self) -> None:
        self.num_links += 1
        self.link = f"link {self.num_links}"
        layout, admitted = self.decode.endpoint.layout, list[tuple[bytes, ...]]()
        self.decode.endpoint.admit(self.link, self.prefill.endpoint.layout, admitted.append)
        self.decode.carry()
        pool = PeerPool(layout, self.decode.pool.num_blocks, admitted[0])
        self.prefill.endpoint.connect(self.link, pool, lambda speed: None)
        self.prefill.carry()

    def note_link_to_cut(self, link: str, cause: str) -> None:
        self.links_to_cut.append((link, cause))

    def transport(self, name: str) -> Transport:
        return (self.make_transport or self._over_memory)(name)

    def _over_memory(self, name: str) -> Transport:
        return MemoryTransport(name, self.fabric)

    def make_outbox(self, name: str) -> HandOutbox:
        return HandOutbox(self)

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
        sampling: SamplingParams | None = None,
        traits: RequestTraits = NO_TRAITS,
    ) -> AttemptId:
        attempt_id = AttemptId(request_id)
        submit = Submit(
            attempt_id=attempt_id,
            tokens=tuple(prompt),
            num_prompt=len(prompt),
            sampling=sampling or SamplingParams(max_tokens=max_tokens),
            destination=None if alone else self.decode.address,
            traits=traits,
            deadline_s=deadline_s,
        )
        self.prefill.loop.attempts.submit("router", submit)
        return attempt_id

    def cancel(self, attempt_id: AttemptId) -> None:
        for station in self.stations:
            station.loop.attempts.cancel(attempt_id)

    def run(self, num_turns: int = 1000) -> None:
        """Turn until quiet, or `num_turns` times."""
        for _ in range(num_turns):
            if not self.turn():
                return

    def turn(self) -> bool:
        moved = self.deliver()
        links_to_cut, self.links_to_cut = self.links_to_cut, []
        for link, cause in links_to_cut:
            if link == self.link:
                self.break_link(cause)
        for station in self.stations:
            station.copy()
            station.carry()
            moved |= station.loop.turn() or station.engine.memory.busy
        return self.deliver() or moved

    def deliver(self) -> bool:
        moved = False
        for sender, receiver in (self.stations, self.stations[::-1]):
            self.received += sender.outbox.for_router
            sender.outbox.for_router.clear()
            messages, sender.outbox.for_peers = sender.outbox.for_peers, []
            for link, message in messages:
                if link == self.link:
                    receiver.loop.receive(message, Peer(sender.ref, link))
                moved = True
        return moved

    def tokens(self, attempt_id: AttemptId) -> list[int]:
        """What the router would stream: by position, none twice, none missing."""
        merged: dict[int, int] = {}
        for output in self.outputs(attempt_id):
            for offset, token in enumerate(output.tokens):
                assert merged.setdefault(output.position + offset, token) == token
        assert list(merged) == sorted(merged)
        return [merged[position] for position in sorted(merged)]

    def outputs(self, attempt_id: AttemptId) -> list[Output]:
        steps = [message for message in self.received if isinstance(message, StepOutputs)]
        return [
            output for step in steps for output in step.outputs if output.attempt_id == attempt_id
        ]

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

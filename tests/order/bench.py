"""Two step loops on models of devices: real handoffs, and what each worker knows to be over."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kv_transfer.transports.memory import MemoryFabric
from kv_transfer.transports.transport import Transport
from tests.order.device import Schedule, StandInDevice
from tests.order.order import Order
from tests.order.ordered_transport import OrderedTransport
from tests.order.stream_runner import StreamRunner
from tests.worker.bench import DECODE_STAMP, PREFILL_STAMP, Bench, HandOutbox, expected
from wire.handoff import Commit, Handoff
from wire.identity import AttemptId
from wire.messages import Destination
from worker.steps.step_context import Peer

NUM_LAYERS = 3
MOST_TURNS = 2000


class TellingOutbox(HandOutbox):
    """Messages carry what their sender knows to be over."""

    def __init__(self, bench: Bench, device: StandInDevice) -> None:
        super().__init__(bench)
        self._device = device
        self.clocks: list[int] = []

    def to_worker(self, peer: Destination, message: Handoff) -> None:
        super().to_worker(peer, message)
        self.clocks.append(self._device.clock)

    def over_link(self, link: str, message: Handoff) -> None:
        if isinstance(message, Commit):
            self._device.trace.append(f"commit {message.attempt_id.request_id}")
        super().over_link(link, message)
        self.clocks.append(self._device.clock)

    def take(self) -> list[tuple[int, tuple[str, Handoff]]]:
        """All messages since the last call, each with its clock."""
        clocks, self.clocks = self.clocks, []
        messages, self.for_peers = self.for_peers, []
        return list(zip(clocks, messages, strict=True))


class OrderBench(Bench):
    """A prefill and a decode worker, each with a device; `schedule` is of both."""

    def __init__(
        self,
        schedule: Schedule,
        *,
        block_sizes: tuple[int, int] = (4, 4),
        num_blocks: int = 64,
        decode_blocks: int | None = None,
    ) -> None:
        self.order, fabric = Order(), MemoryFabric()
        self.source, self.destination = (
            StandInDevice(name, self.order, schedule) for name in ("prefill", "decode")
        )
        self.devices = {"prefill": self.source, "decode": self.destination}

        def make_transport(name: str) -> Transport:
            return OrderedTransport(name, fabric, self.devices[name.partition("#")[0]])

        stamps = PREFILL_STAMP, DECODE_STAMP
        runners = [
            StreamRunner(device, stamp, block_size=size, num_layers=NUM_LAYERS)
            for device, stamp, size in zip(self.devices.values(), stamps, block_sizes, strict=True)
        ]
        super().__init__(
            num_blocks,
            decode_blocks,
            prefill_runner=runners[0],
            decode_runner=runners[1],
            fabric=fabric,
            make_transport=make_transport,
        )

    def open_link(self) -> None:
        for station in self.stations:
            runner = station.runner
            assert isinstance(runner, StreamRunner)
            station.carry = one_at_a_time(station.carry)  # type: ignore[method-assign]
            runner.device.others = station.carry
            for rank in station.ranks:
                rank._sums = runner.sums
        super().open_link()

    def make_outbox(self, name: str) -> HandOutbox:
        return TellingOutbox(self, self.devices[name])

    def deliver(self) -> bool:
        moved = False
        for sender, receiver in (self.stations, self.stations[::-1]):
            outbox = sender.outbox
            assert isinstance(outbox, TellingOutbox)
            self.received += outbox.for_router
            outbox.for_router.clear()
            for clock, (link, message) in outbox.take():
                self.devices[receiver.ref.worker_id].learn(clock)
                receiver.loop.on_peer_message(message, Peer(sender.ref, link))
                moved = True
        return moved

    def serve(self, prompts: Sequence[list[int]], max_tokens: int = 6) -> list[AttemptId]:
        """Serve all prompts to their ends."""
        attempts = [
            self.submit(name, prompt, max_tokens)
            for name, prompt in zip("abcdefgh", prompts, strict=False)
        ]
        self.run_until(self.at_rest)
        return attempts

    def at_rest(self) -> bool:
        return all(it.at_rest and not it.outbox.for_peers for it in self.stations)

    def run_until(self, over: Callable[[], bool]) -> None:
        for _ in range(MOST_TURNS):
            self.turn()
            if over():
                return
        raise AssertionError(f"not over after {MOST_TURNS} turns")

    def problems(self, prompts: Sequence[list[int]], max_tokens: int = 6) -> list[str]:
        """What is wrong once these have been served: order, answers, or who made them."""
        attempts = self.serve(prompts, max_tokens)
        problems = list(self.order.faults)
        for attempt_id, prompt in zip(attempts, prompts, strict=True):
            wanted = expected(prompt, [PREFILL_STAMP] + [DECODE_STAMP] * (max_tokens - 1))
            if self.tokens(attempt_id) != wanted:
                problems.append(f"{attempt_id.request_id} has other tokens, or from elsewhere")
        return problems


def one_at_a_time(turn: Callable[[], None]) -> Callable[[], None]:
    """A thread's turn, which is not begun within itself."""
    running = False

    def run() -> None:
        nonlocal running
        if not running:
            running = True
            turn()
            running = False

    return run

"""A model of a device: streams that run late, events, and the worker that is told of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol

from kv_transfer.streams import AccessedBlocks, Event
from tests.order.order import Order, words_of


class Schedule(Protocol):
    """Decides how far a device gets while its worker does something."""

    def after_launch(self, device: StandInDevice) -> None: ...

    def after_query(self, device: StandInDevice, stream: StandInStream) -> None: ...

    def lags(self) -> bool:
        """Whether a transfer that could be over is still under way."""
        ...


class Prompt:
    """Everything runs as soon as it is launched."""

    def after_launch(self, device: StandInDevice) -> None:
        for stream in device.streams:
            stream.run_to(stream.num_launched)

    def after_query(self, device: StandInDevice, stream: StandInStream) -> None: ...

    def lags(self) -> bool:
        return False


class Late:
    """Nothing runs before somebody waits for it, or has looked at it often enough."""

    def __init__(self, every: int = 3) -> None:
        self._every = every
        self._num_queries = self._num_looks = 0

    def after_launch(self, device: StandInDevice) -> None: ...

    def after_query(self, device: StandInDevice, stream: StandInStream) -> None:
        self._num_queries += 1
        if self._num_queries % self._every == 0:
            stream.run_to(stream.num_done + 1)

    def lags(self) -> bool:
        self._num_looks += 1
        return self._num_looks % self._every != 0


class Drawn:
    """Any stream may get ahead at any time; the same seed draws the same."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def after_launch(self, device: StandInDevice) -> None:
        for stream in device.streams:
            if not self.lags():
                stream.run_to(stream.num_done + self._random.randint(1, 4))

    def after_query(self, device: StandInDevice, stream: StandInStream) -> None:
        self.after_launch(device)

    def lags(self) -> bool:
        return self._random.random() < 0.6


class StandInDevice:
    """One worker's device. All threads of the worker share what they know to be over: `clock`.

    While one of them waits or looks, the others get a turn: `others`.
    """

    def __init__(self, name: str, order: Order, schedule: Schedule) -> None:
        self.name = name
        self.order = order
        self.schedule = schedule
        self.clock = 0
        self.streams: list[StandInStream] = []
        self.trace: list[str] = []
        """Waits, and what the test adds."""
        self.others: Callable[[], None] = _nobody
        self.steps = self.create("steps")

    def create(self, name: str) -> StandInStream:
        self.streams.append(StandInStream(self, name))
        return self.streams[-1]

    def learn(self, clock: int) -> None:
        self.clock |= clock

    def let_others_turn(self) -> None:
        others, self.others = self.others, _nobody
        others()
        self.others = others


class StandInStream:
    """Implements `kv_transfer.streams.Stream`; `work` runs when the schedule says so."""

    def __init__(self, device: StandInDevice, name: str) -> None:
        self._device = device
        self.name = name
        self.num_launched = 0
        self.num_done = 0
        self._clock = 0
        self._queue: deque[Callable[[], object]] = deque()

    def launch(
        self,
        work: Callable[[], object],
        reads: Sequence[AccessedBlocks] = (),
        writes: Sequence[AccessedBlocks] = (),
    ) -> None:
        device = self._device
        what = f"{device.name}'s {self.name}"
        before = self._clock | device.clock
        self._clock = device.order.begin(what, before, words_of(reads), words_of(writes))
        self._add(work)
        device.schedule.after_launch(device)

    def record_event(self) -> Event:
        return StandInEvent(self._device, self, self.num_launched, self._clock)

    def wait_event(self, event: Event) -> None:
        assert isinstance(event, StandInEvent)
        self._clock |= event.clock
        self._add(event.run)

    def run_to(self, number: int) -> None:
        while self.num_done < min(number, self.num_launched):
            self.num_done += 1
            self._queue.popleft()()

    def _add(self, work: Callable[[], object]) -> None:
        self._queue.append(work)
        self.num_launched += 1


class StandInEvent:
    """Implements `kv_transfer.streams.Event`."""

    def __init__(
        self, device: StandInDevice, stream: StandInStream, number: int, clock: int
    ) -> None:
        self._device = device
        self._stream = stream
        self._number = number
        self.clock = clock

    def query(self) -> bool:
        if not self._over:
            self._device.let_others_turn()
            self._device.schedule.after_query(self._device, self._stream)
        if self._over:
            self._device.learn(self.clock)
        return self._over

    def synchronize(self) -> None:
        if not self._over:
            self._device.trace.append(f"wait for {self._stream.name}")
            self._device.let_others_turn()
            self.run()
        self._device.learn(self.clock)

    def run(self) -> None:
        self._stream.run_to(self._number)

    @property
    def _over(self) -> bool:
        return self._stream.num_done >= self._number


def _nobody() -> None: ...

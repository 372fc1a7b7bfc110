"""Both step loops under any sequence of messages, faults and requests that Hypothesis thinks of.

After every rule both pools are whole, no sequence runs on both sides, and no write that may still
land goes to a block that no attempt owns. At the end all is free, and every answer is right.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from kv_transfer.handoff.destination import DestinationState
from tests.worker.bench import Bench, Station, expected
from wire.handoff import Handoff, Offer
from wire.identity import AttemptId
from wire.messages import Failed
from worker.steps.step_context import Peer

MAX_ATTEMPTS = 12
OWNED = (DestinationState.GRANTED, DestinationState.FENCING)
SIDES = st.sampled_from([0, 1])
PLACES = st.integers(0, 7)


class Handoffs(RuleBasedStateMachine):
    """A prefill and a decode worker, between them messages that arrive when a rule says so.

    Who is deaf has heard that the link's session ended; when both have, there is another.
    """

    ahead = False
    host_blocks = 0

    @initialize(
        num_blocks=st.sampled_from([24, 40, 64]),
        decode_blocks=st.sampled_from([16, 40, 80]),
        decode_block_size=st.sampled_from([2, 4, 4, 8]),
        chunk_tokens=st.sampled_from([3, 8, 32]),
    )
    def begin(
        self, num_blocks: int, decode_blocks: int, decode_block_size: int, chunk_tokens: int
    ) -> None:
        self.bench = Bench(
            num_blocks=num_blocks,
            decode_blocks=decode_blocks,
            decode_block_size=decode_block_size,
            chunk_tokens=chunk_tokens,
            ahead=self.ahead,
            host_blocks=self.host_blocks,
        )
        self.flying: list[tuple[Station, str, Handoff]] = []
        self.unsent: list[Offer] = []
        """Made by a deaf source: they go over the next link."""
        self.deaf: set[Station] = set()
        self.answers: dict[AttemptId, tuple[list[int], int]] = {}
        self.cancelled: set[AttemptId] = set()

    @precondition(lambda self: len(self.answers) < MAX_ATTEMPTS)
    @rule(
        start=st.sampled_from([0, 0, 5, 50]),
        lengths=st.lists(st.integers(1, 30), min_size=1, max_size=3),
        max_tokens=st.sampled_from([1, 2, 5, 20]),
    )
    def submit(self, start: int, lengths: list[int], max_tokens: int) -> None:
        """Prompts that begin alike share blocks."""
        for length in lengths:
            number = len(self.answers)
            begin = start + number if start == 50 else start
            prompt = list(range(begin, begin + length))
            attempt_id = self.bench.submit(f"r{number}", prompt, max_tokens)
            self.answers[attempt_id] = (prompt, max_tokens)

    @precondition(lambda self: self.answers)
    @rule(place=PLACES, sides=st.sampled_from([(0,), (1,), (0, 1)]))
    def cancel(self, place: int, sides: tuple[int, ...]) -> None:
        attempt_id = list(self.answers)[place % len(self.answers)]
        self.cancelled.add(attempt_id)
        for side in sides:
            self.bench.stations[side].loop.attempts.cancel(attempt_id)
        self._collect()

    @rule(side=SIDES, num_turns=st.integers(1, 4))
    def turn(self, side: int, num_turns: int) -> None:
        for _ in range(num_turns):
            self._turn(self.bench.stations[side])

    @rule(num_turns=st.integers(1, 8))
    def run(self, num_turns: int) -> None:
        """For a while all goes well."""
        for _ in range(num_turns):
            self._deliver_all()
            for station in self.bench.stations:
                self._turn(station)

    @precondition(lambda self: self.flying)
    @rule(place=PLACES)
    def deliver(self, place: int) -> None:
        """The first more often than another, which then overtakes it."""
        self._receive(*self.flying.pop(max(0, place - 4) % len(self.flying)))

    @precondition(lambda self: self.flying)
    @rule(place=PLACES)
    def repeat(self, place: int) -> None:
        self._receive(*self.flying[place % len(self.flying)])

    @precondition(lambda self: self.flying)
    @rule(place=PLACES, count=st.integers(1, 4))
    def lose(self, place: int, count: int) -> None:
        first = place % len(self.flying)
        del self.flying[first : first + count]

    @precondition(lambda self: not self.bench.fabric.stalled and any(self._attempts_under_way()))
    @rule()
    def stall(self) -> None:
        self.bench.fabric.stall()

    @precondition(lambda self: self.bench.fabric.stalled)
    @rule()
    def resume(self) -> None:
        """What was given up lands now, where it is still let in."""
        self.bench.fabric.resume()

    @precondition(lambda self: not self.bench.fabric.flip_bits)
    @rule()
    def damage_the_next_write(self) -> None:
        self.bench.fabric.flip_bits = 1

    @rule(seconds=st.sampled_from([0.3, 1.0, 12.0, 31.0]))
    def pass_time(self, seconds: float) -> None:
        self.bench.now += seconds

    @precondition(lambda self: self.deaf or any(self._attempts_under_way()))
    @rule(side=SIDES)
    def end_session(self, side: int) -> None:
        """One end hears of it now, the other when this rule comes again, or by itself."""
        self._hear_the_end(self.bench.stations[side])

    @invariant()
    def pools_are_whole(self) -> None:
        for station in self.bench.stations:
            station.engine.memory.check_integrity()

    @invariant()
    def nothing_runs_twice(self) -> None:
        for attempt_id, attempt in self.bench.prefill.loop.attempts._attempts.items():
            if attempt.kept:
                assert attempt_id not in self.bench.decode.loop.attempts._attempts, (
                    f"{attempt_id} runs twice"
                )

    @invariant()
    def what_may_land_goes_to_blocks_of_its_attempt(self) -> None:
        handoffs = self.bench.decode.loop.destination_handoffs._attempts.values()
        owned = {block for h in handoffs if h.state in OWNED for block in h._granted}
        assert self._writable_blocks() <= owned

    def teardown(self) -> None:
        if hasattr(self, "bench"):
            self._come_to_rest()
            self.bench.check_nothing_is_held()
            self._check_answers()

    def _attempts_under_way(self) -> tuple[int, int]:
        return len(self.bench.prefill.loop.source_handoffs), len(
            self.bench.decode.loop.destination_handoffs
        )

    def _turn(self, station: Station) -> None:
        """A worker whose write failed hangs up before it says anything of it."""
        station.copy()
        station.carry()
        self._cut_links(station)
        station.loop.turn()
        self._collect()
        self._cut_links(station)

    def _cut_links(self, station: Station) -> None:
        cuts, self.bench.links_to_cut = self.bench.links_to_cut, []
        if any(link == self.bench.link for link, _ in cuts):
            self._hear_the_end(station)

    def _collect(self) -> None:
        bench = self.bench
        for sender, receiver in (bench.stations, bench.stations[::-1]):
            bench.received += sender.outbox.for_router
            sender.outbox.for_router.clear()
            sent, sender.outbox.for_peers = sender.outbox.for_peers, []
            for link, message in sent:
                if sender not in self.deaf:
                    self.flying.append((receiver, link, message))
                elif isinstance(message, Offer) and link == bench.link:
                    self.unsent.append(message)

    def _receive(self, receiver: Station, link: str, message: Handoff) -> None:
        """What was sent over a link that is gone is lost."""
        if link == self.bench.link and receiver not in self.deaf:
            sender = message.source if receiver is self.bench.decode else message.destination
            receiver.loop.receive(message, Peer(sender, link))
        self._collect()

    def _deliver_all(self) -> None:
        while self.flying:
            self._receive(*self.flying.pop(0))

    def _hear_the_end(self, station: Station) -> None:
        """The transfer thread tears down its end of the link when it turns next."""
        bench, link = self.bench, self.bench.link
        if station in self.deaf:
            return
        self.deaf.add(station)
        if station is bench.prefill:
            station.loop.source_handoffs.peer_lost(Peer(bench.decode.ref, link), "reset")
            station.endpoint.disconnect(link, lambda: None)
        else:
            incoming = station.loop.destination_handoffs
            lost = incoming.source_lost(link, "reset")
            station.endpoint.evict(link, lambda: incoming.source_fenced(lost))
        self._collect()
        if len(self.deaf) == len(bench.stations):
            self._open_link()

    def _open_link(self) -> None:
        """When both ends are through with the former one."""
        bench = self.bench
        for station in bench.stations:
            station.carry()
        self._collect()
        self.deaf.clear()
        bench.links_to_cut.clear()
        bench.open_link()
        self.flying = [(bench.decode, bench.link, offer) for offer in self.unsent]
        self.unsent = []

    def _writable_blocks(self) -> set[int]:
        """Of writes that wait or are under way, or were given up and may still arrive."""
        bench, fabric = self.bench, self.bench.fabric
        (rank,), size = bench.prefill.ranks, bench.decode.runner.layout.block_bytes
        transfer_thread = rank.transfer_thread
        late = [(admission, offset) for admission, offset, _ in fabric._late]
        blocks = {offset // size for admission, offset in late if admission in fabric.admitted}
        if bench.link in bench.decode.ranks[0].transfer_thread._admitted:
            writes = transfer_thread._writes
            parts = [*writes.waiting, *writes.in_flight]
            blocks.update(block for part in parts for block in part.block_write.remote_blocks)
        return blocks

    def _come_to_rest(self) -> None:
        """No more faults."""
        bench = self.bench
        bench.fabric.resume()
        bench.fabric.flip_bits = 0
        if self.deaf:
            for station in bench.stations:
                self._hear_the_end(station)
        for _ in range(4000):
            self.run(1)
            bench.now += 0.1
            if not self.flying and all(station.at_rest for station in bench.stations):
                return

    def _check_answers(self) -> None:
        failed = {m.attempt_id for m in self.bench.told(Failed) if isinstance(m, Failed)}
        for attempt_id, (prompt, max_tokens) in self.answers.items():
            if attempt_id not in failed | self.cancelled:
                tokens = self.bench.tokens(attempt_id)
                assert tokens == expected(prompt, [token % 4 for token in tokens])
                assert len(tokens) == max_tokens


class HandoffsAhead(Handoffs):
    """The same where workers launch a step while the one before is computed."""

    ahead = True


class HandoffsWithHostMemory(Handoffs):
    """The same where blocks come and go between the caches and what lies behind them."""

    host_blocks = 30


TestHandoffs = Handoffs.TestCase
TestHandoffsAhead = HandoffsAhead.TestCase
TestHandoffsWithHostMemory = HandoffsWithHostMemory.TestCase
every_settings = settings(
    max_examples=150,
    stateful_step_count=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
for machine in (TestHandoffs, TestHandoffsAhead, TestHandoffsWithHostMemory):
    machine.settings = every_settings

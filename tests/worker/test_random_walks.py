"""Random walks over both step loops: messages late, repeated and lost, stalls, breaks, cancels.

After every turn both pools are whole, no write goes to a page that its leg does not own, and no
sequence runs on both sides; at the end everything is free, and every answer is right.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from kv_transfer.destination import DestinationState
from tests.worker.bench import Bench, Station, expected
from wire.handoff import Handoff
from wire.identity import Leg
from wire.messages import Failed
from worker.tickets import Peer

NUM_STEPS = 400
OWNED = (DestinationState.GRANTED, DestinationState.FENCING)


class Walk:
    """One walk; `lossy` networks repeat, reorder and lose messages, others only delay them."""

    def __init__(self, seed: int, *, lossy: bool) -> None:
        self.draw = random.Random(seed)
        num_blocks, decode_blocks = self.draw.choice([24, 40, 64]), self.draw.choice([14, 24, 40])
        self.bench = Bench(num_blocks=num_blocks, decode_blocks=decode_blocks)
        self.lossy = lossy
        self.flying: list[tuple[Station, str, Handoff, Station]] = []
        self.deaf: set[Station] = set()
        """Who has heard that the link is gone."""
        self.answers: dict[Leg, tuple[list[int], int]] = {}
        self.cancelled: set[Leg] = set()
        self.acts: list[tuple[float, Callable[[], None]]] = [
            (0.08, self.submit),
            (0.03, self.cancel),
            (0.03, self.bench.fabric.stall),
            (0.08, self.bench.fabric.resume),
            (0.02, self.pass_time),
            (0.02, self.break_link),
            (0.39, self.deliver_one),
            (0.35, self.turn_one),
        ]

    def step(self) -> None:
        weights = [weight for weight, _ in self.acts]
        self.draw.choices([act for _, act in self.acts], weights)[0]()

    def submit(self) -> None:
        if len(self.answers) == 14:
            return
        number = len(self.answers)
        start, count = self.draw.choice([0, 0, 5, number]), self.draw.randint(1, 30)
        prompt, max_tokens = list(range(start, start + count)), self.draw.choice([1, 2, 5, 20])
        leg = self.bench.submit(f"r{number}", prompt, max_tokens)
        self.answers[leg] = (prompt, max_tokens)

    def cancel(self) -> None:
        if not self.answers:
            return
        leg = self.draw.choice(list(self.answers))
        self.cancelled.add(leg)
        for station in self.draw.sample(self.bench.stations, 2):
            station.loop.cancel(leg)
            if self.draw.random() < 0.5:
                self.turn_one()

    def pass_time(self) -> None:
        self.bench.now += self.draw.choice([1.0, 12.0, 31.0])

    def break_link(self) -> None:
        """The two ends hear of it one after the other; then there is another link."""
        bench = self.bench
        station = self.draw.choice([s for s in bench.stations if s not in self.deaf])
        if station is bench.prefill:
            bench.source_hears_the_link_end("reset")
        else:
            bench.destination_hears_the_link_end("reset")
        self.deaf.add(station)
        if len(self.deaf) == len(bench.stations):
            self.deaf.clear()
            bench.open_link()
        self.collect()

    def deliver_one(self) -> None:
        """What was sent over a link that is gone is lost."""
        if not self.flying:
            return
        index = self.draw.randrange(len(self.flying)) if self.lossy else 0
        receiver, link, message, sender = self.flying.pop(index)
        if link == self.bench.link and receiver not in self.deaf:
            receiver.loop.receive(message, Peer(sender.ref, link))
        if self.lossy and self.draw.random() < 0.1:
            self.flying.append((receiver, link, message, sender))

    def turn_one(self) -> None:
        self.turn(self.draw.choice(self.bench.stations))

    def turn(self, station: Station) -> None:
        self.check_writes()
        station.courier.turn()
        station.loop.turn()
        self.collect()
        for each in self.bench.stations:
            each.pool.check_integrity()
        self.check_nothing_runs_twice()

    def collect(self) -> None:
        stations = self.bench.stations
        for sender, receiver in (stations, stations[::-1]):
            self.bench.received += sender.outbox.for_router
            sender.outbox.for_router.clear()
            sent, sender.outbox.for_peers = sender.outbox.for_peers, []
            kept = [m for m in sent if not (self.lossy and self.draw.random() < 0.02)]
            self.flying += [(receiver, link, message, sender) for link, message in kept]
        cuts, self.bench.links_to_cut = self.bench.links_to_cut, []
        if any(link == self.bench.link for link, _ in cuts):
            self.break_link()

    def check_writes(self) -> None:
        handoffs = self.bench.decode.loop.incoming._legs.values()
        owned = {page for h in handoffs if h.state in OWNED for page in h._pages}
        for flight in self.bench.prefill.courier._flights:
            if self.bench.decode in self.deaf:
                continue  # its door is closed: what arrives does not land
            pages = flight.part.passage.pages
            assert set(pages) <= owned, "a write goes to pages that its leg does not own"

    def check_nothing_runs_twice(self) -> None:
        for leg, ticket in self.bench.prefill.loop._tickets.items():
            if ticket.kept and leg not in self.cancelled:
                assert leg not in self.bench.decode.loop._tickets, f"{leg} runs twice"

    def end(self) -> None:
        """No more faults: everything comes to rest."""
        self.lossy = False
        self.bench.fabric.resume()
        while self.deaf:
            self.break_link()
        for _ in range(4000):
            while self.flying:
                self.deliver_one()
            for station in self.bench.stations:
                self.turn(station)
            self.bench.now += 0.1
            if not self.flying and all(s.loop.idle for s in self.bench.stations):
                break
        self.bench.check_nothing_is_held()

    def check_answers(self) -> None:
        failed = {m.leg for m in self.bench.told(Failed) if isinstance(m, Failed)}
        for leg, (prompt, max_tokens) in self.answers.items():
            if leg not in failed | self.cancelled:
                tokens = self.bench.tokens(leg)
                assert tokens == expected(prompt, [token % 4 for token in tokens])
                assert len(tokens) == max_tokens


@pytest.mark.parametrize("lossy", [False, True], ids=["ordered", "lossy"])
@pytest.mark.parametrize("seed", range(40))
def test_a_walk_ends_with_everything_free_and_every_answer_right(seed: int, lossy: bool) -> None:
    walk = Walk(seed, lossy=lossy)
    for _ in range(NUM_STEPS):
        walk.step()
    walk.end()
    walk.check_answers()

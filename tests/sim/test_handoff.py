"""A handoff in virtual time is the handoff of production, message by message."""

from __future__ import annotations

import msgspec
import pytest

from router.placing.placement_request import Split
from sim.machine import MachineModel
from sim.network import Network
from sim.router import RouterSettings
from sim.simulation import SimulatedCluster, WorkerPool
from sim.traces import Arrival
from sim.worker import SETTINGS
from tests.worker.bench import Bench, HandOutbox
from wire.handoff import Accepted, Commit, Grant, Handoff, Offer
from wire.identity import Role, WorkerRef
from wire.layout import KvLayout
from wire.messages import Handed, Message, Prefilled, Released, StepOutputs

pytestmark = pytest.mark.quick

NUM_PROMPT, NUM_NEW, BLOCK, CHUNK = 19, 5, 4, 8
LAYOUT = KvLayout(num_layers=1, num_kv_heads=1, head_size=4, block_size=BLOCK, dtype="int64")


def _spoken(message: Handoff | Message) -> tuple[object, ...]:
    """The parts of a message that depend on no token value, name or time."""
    match message:
        case Offer():
            return Offer, message.num_tokens, message.max_tokens
        case Grant():
            return Grant, message.first_missing_block, len(message.blocks)
        case Commit():
            return Commit, len(message.new_tokens), message.num_prompt, message.moved.num_blocks
        case StepOutputs():
            outputs = message.outputs
            return StepOutputs, [(each.position, len(each.tokens), each.finish) for each in outputs]
        case _:
            return (type(message),)


def _by_hand(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """The same request between the two step loops of tests/worker."""
    spoken: list[Handoff | Message] = []
    over_link, to_worker = HandOutbox.over_link, HandOutbox.to_worker
    to_router = HandOutbox.to_router
    monkeypatch.setattr(
        HandOutbox, "over_link", lambda *args: (spoken.append(args[2]), over_link(*args))
    )
    monkeypatch.setattr(
        HandOutbox, "to_worker", lambda *args: (spoken.append(args[2]), to_worker(*args))
    )
    monkeypatch.setattr(
        HandOutbox, "to_router", lambda *args: (spoken.append(args[2]), to_router(*args))
    )
    bench = Bench(chunk_tokens=CHUNK)
    bench.submit("r0", list(range(NUM_PROMPT)), NUM_NEW)
    bench.run()
    return [_spoken(message) for message in spoken]


def _in_virtual_time(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    spoken: list[Handoff | Message] = []
    over_link, to_router = Network.over_link, Network.to_router

    def note_handoff(
        network: Network, sender: WorkerRef, sent_s: float, link: str, message: Handoff
    ) -> None:
        spoken.append(message)
        over_link(network, sender, sent_s, link, message)

    def note_news(
        network: Network, sender: WorkerRef, sent_s: float, messages: list[Message]
    ) -> None:
        kinds = Prefilled, StepOutputs, Handed, Released
        spoken.extend(message for message in messages if isinstance(message, kinds))
        to_router(network, sender, sent_s, messages)

    monkeypatch.setattr(Network, "over_link", note_handoff)
    monkeypatch.setattr(Network, "to_router", note_news)
    machine = MachineModel(layout=LAYOUT, pool_tokens=64 * BLOCK)
    settings = msgspec.structs.replace(SETTINGS, chunk_tokens=CHUNK)
    pools = [WorkerPool(role, 1, machine, settings) for role in Role]
    cluster = SimulatedCluster(pools, RouterSettings(split=Split.ALWAYS))
    cluster.run([Arrival(0.0, NUM_PROMPT, NUM_NEW, (7,))])
    return [_spoken(message) for message in spoken]


def test_both_workers_say_what_production_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        real = _by_hand(patched)
    simulated = _in_virtual_time(monkeypatch)
    for kind in (Offer, Grant, Commit, Accepted, Prefilled, Handed, Released, StepOutputs):
        assert [each for each in simulated if each[0] is kind] == [
            each for each in real if each[0] is kind
        ]
    assert len(simulated) == len(real)

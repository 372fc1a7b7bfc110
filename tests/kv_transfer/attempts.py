"""Both ends of one handoff, made ready to be driven by hand."""

from __future__ import annotations

from kv_transfer.handoff.destination import DestinationHandoff
from kv_transfer.handoff.effects import Effect, Send, Write
from kv_transfer.handoff.source import Final, SourceHandoff
from wire.handoff import Handoff, Offer
from wire.identity import AttemptId, WorkerRef
from wire.layout import KvLayout
from wire.sampling import SamplingParams

BLOCK_SIZE = 4
LAYOUT = KvLayout(num_layers=1, num_kv_heads=1, head_size=1, block_size=BLOCK_SIZE, dtype="int64")
PROMPT = tuple(range(10))  # two full blocks and a half one
SOURCE = WorkerRef("prefill", 1)
DESTINATION = WorkerRef("decode", 2)
SAMPLING = SamplingParams(max_tokens=5)


def an_offer(deadline_s: float = 100.0, layout: KvLayout = LAYOUT) -> Offer:
    return Offer(
        attempt_id=AttemptId("request"),
        source=SOURCE,
        destination=DESTINATION,
        tokens=PROMPT,
        max_tokens=len(PROMPT) + 5,
        layout=layout,
        content="c",
        router_id="router",
        deadline_s=deadline_s,
    )


def a_source(layout: KvLayout = LAYOUT) -> SourceHandoff:
    source = SourceHandoff(an_offer(layout=layout), transfer_deadline_s=10.0)
    source.start(now=0.0)
    return source


def a_destination(num_held: int = 0) -> DestinationHandoff:
    """Grants blocks 20, 21, … for those after the `num_held` (numbers 10, 11, …) it has."""
    held = range(10, 10 + num_held)
    granted = range(20, 23 - num_held)
    return DestinationHandoff(
        an_offer(),
        held,
        granted,
        epoch=7,
        layout=LAYOUT,
        deadline=100.0,
        fence_deadline_s=5.0,
    )


def final(first_token: int = 99) -> Final:
    return Final((first_token,), len(PROMPT), SAMPLING)


def sent(effects: list[Effect]) -> list[Handoff]:
    return [effect.message for effect in effects if isinstance(effect, Send)]


def writes(effects: list[Effect]) -> list[Write]:
    return [effect for effect in effects if isinstance(effect, Write)]

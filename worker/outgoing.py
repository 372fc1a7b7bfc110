"""The source end of handoffs: carries out what `kv_transfer.source` decides."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from engine.engine import Engine, Progress
from engine.runner import OnLayer, Slice
from engine.sequence import Status
from kv_transfer.effects import (
    CutLink,
    Effect,
    HandedOver,
    NotHandedOver,
    Send,
    SourceClosed,
    Write,
)
from kv_transfer.endpoint import Endpoint
from kv_transfer.source import Final, SourceHandoff
from wire.handoff import Abort, Grant, Handoff, Offer, Quiesced
from wire.identity import Leg, WorkerRef
from wire.messages import Destination, Failed, Kept, Released
from worker.config import WorkerConfig
from worker.leaving import Call, Leaving, layers_per_write
from worker.tickets import Outbox, Peer, Ticket


class Outgoing:
    """All legs that this worker prefills for others. Lives in the step loop's thread.

    A sequence is pinned from its offer until no write of it is outstanding. When a handoff does
    not come about, the worker keeps the sequence and decodes it: nothing is recomputed.
    `on_over(leg)` is told when a leg is no longer this worker's to serve.
    """

    def __init__(
        self,
        me: WorkerRef,
        content: str,
        config: WorkerConfig,
        engine: Engine,
        endpoint: Endpoint,
        outbox: Outbox,
        call: Call,
        on_over: Callable[[Leg], None],
        clock: Callable[[], float],
    ) -> None:
        self._me = me
        self._content = content
        self._config = config
        self._engine = engine
        self._endpoint = endpoint
        self._outbox = outbox
        self._leaving = Leaving(engine.runner.layout, endpoint, call, clock)
        self._on_over = on_over
        self._clock = clock
        self._legs: dict[Leg, Ticket] = {}
        self._num_offers = 0

    def __len__(self) -> int:
        return len(self._legs)

    def __contains__(self, leg: Leg) -> bool:
        return leg in self._legs

    def open(self, ticket: Ticket) -> None:
        """Offer a sequence that has just been scheduled to its destination."""
        self._offer(ticket, len(ticket.sequence.tokens))

    def move(self, ticket: Ticket, destination: Destination) -> None:
        """Hand over a sequence that runs here; if it decodes, its steps pause until the verdict."""
        sequence = ticket.sequence
        if sequence.leg in self._legs or sequence.status is not Status.RUNNING:
            cause = f"it cannot move now: {sequence.status.value}, or another handoff has not ended"
            self._outbox.to_router(ticket.router_id, Kept(leg=sequence.leg, cause=cause))
            return
        ticket.destination, ticket.kept = destination, False
        if not sequence.decoding:
            self.open(ticket)
            return
        self._engine.hold(sequence)
        self._offer(ticket, sequence.num_computed)
        self._finish(ticket)

    def share(self, ticket: Ticket) -> None:
        """Copy a held sequence's blocks into the destination's prefix cache."""
        self._offer(ticket, len(ticket.sequence.tokens))
        self._finish(ticket)

    def _offer(self, ticket: Ticket, num_tokens: int) -> None:
        sequence, destination = ticket.sequence, ticket.destination
        assert destination is not None
        self._num_offers += 1
        offer = Offer(
            leg=sequence.leg,
            source=self._me,
            destination=destination.ref,
            offer_number=self._num_offers,
            tokens=tuple(sequence.tokens[:num_tokens]),
            max_tokens=sequence.num_prompt + sequence.sampling.max_tokens,
            layout=self._endpoint.layout,
            content=self._content,
            router_id=ticket.router_id,
            deadline_s=self._config.handoff_deadline_s,
            cache_salt=sequence.cache_salt,
            priority=sequence.priority,
            tenant=sequence.tenant,
            prefix_only=ticket.prefix_only,
            grammar=sequence.sampling.grammar,
        )
        deadline_s = self._config.transfer_deadline_s
        ticket.handoff = SourceHandoff(offer, transfer_deadline_s=deadline_s)
        ticket.link = None
        sequence.pinned = True
        self._legs[sequence.leg] = ticket
        self._perform(ticket, ticket.handoff.start(self._clock()))
        self._computed(ticket, sequence.num_computed)

    def _computed(self, ticket: Ticket, num_tokens: int) -> None:
        """So much of the sequence is in the cache; it leaves now, or all of it at once."""
        handoff, blocks = ticket.handoff, ticket.sequence.blocks
        assert handoff is not None
        if self._config.overlap or num_tokens >= handoff.offer.num_tokens:
            self._perform(ticket, handoff.computed(blocks, num_tokens))

    def _finish(self, ticket: Ticket) -> None:
        """All that travels is computed: commit as soon as it has arrived."""
        assert ticket.handoff is not None
        sequence = ticket.sequence
        final = Final(
            tuple(sequence.tokens[ticket.handoff.offer.num_tokens :]),
            sequence.num_prompt,
            msgspec.structs.replace(sequence.sampling, prompt_logprobs=None),
            ticket.last_logprob,
            tuple(sequence.scores),
        )
        self._perform(ticket, ticket.handoff.finish(final, self._clock()))

    def by_layers(self, slices: list[Slice]) -> OnLayer | None:
        """To be called while a step computes: the last chunk of a prompt leaves layer by layer."""
        layout = self._engine.runner.layout
        leaving = [
            (ticket, ticket.handoff, layers_per_write(layout, slice.count))
            for slice in slices
            if (ticket := self._legs.get(slice.sequence.leg)) is not None
            and self._config.overlap
            and ticket.handoff is not None
            and ticket.handoff.offer.num_tokens == slice.end
        ]

        def on_layer(num_layers: int) -> None:
            for ticket, handoff, group in leaving:
                if num_layers % group == 0 and num_layers < layout.num_layers:
                    blocks = ticket.sequence.blocks
                    self._perform(ticket, handoff.computed_layers(blocks, num_layers))

        return on_layer if leaving else None

    def progressed(self, ticket: Ticket, progress: Progress) -> None:
        """A step computed more of the prompt, or drew the first token, or ended the sequence."""
        handoff, sequence = ticket.handoff, ticket.sequence
        if handoff is None or not ticket.wanted or ticket.kept:
            return
        if progress.finish is not None:
            self.cancel(ticket, "the answer ended with its first token")
            return
        self._computed(ticket, progress.end)
        if progress.sampled is not None and sequence.status is Status.RUNNING:
            self._engine.hold(sequence)
            self._finish(ticket)

    def cancel(self, ticket: Ticket, cause: str) -> None:
        """Nobody wants the sequence; its blocks go back when no write reads them any more."""
        self._over(ticket)
        assert ticket.handoff is not None
        self._perform(ticket, ticket.handoff.abort(cause, self._clock()))

    def receive(self, message: Handoff, peer: Peer) -> None:
        """A leg may have had other destinations before: those only hear that all is quiet."""
        ticket = self._legs.get(message.leg)
        handoff = None if ticket is None else ticket.handoff
        if ticket and handoff and message.ends == handoff.offer.ends:
            ticket.link = ticket.link or peer.link
            if ticket.link == peer.link:
                self._perform(ticket, handoff.receive(message, self._clock()))
        elif isinstance(message, Grant | Abort):
            # No record of the offer means that no write of it is outstanding on a living link: when
            # one fails, its session is hung up before anybody hears of it (Courier._fail).
            self._outbox.over_link(peer.link, Quiesced(**message.ends, epoch=None))

    def peer_lost(self, peer: Peer, cause: str) -> None:
        """The link ended, or was never made."""
        for ticket in list(self._legs.values()):
            handoff = ticket.handoff
            assert handoff is not None
            if handoff.offer.destination == peer.ref and ticket.link in (None, peer.link):
                self._perform(ticket, handoff.peer_lost(cause))

    def tick(self, now: float) -> None:
        for ticket in list(self._legs.values()):
            assert ticket.handoff is not None
            self._perform(ticket, ticket.handoff.tick(now))

    def _perform(self, ticket: Ticket, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self._send(ticket, effect.message)
                case Write():
                    self._leaving.post(ticket, effect, self._perform)
                case HandedOver():
                    self._handed_over(ticket)
                case NotHandedOver():
                    self._not_handed_over(ticket, effect)
                case SourceClosed():
                    self._closed(ticket)
                case CutLink():
                    assert ticket.link is not None
                    self._outbox.cut_link(ticket.link, effect.cause)

    def _send(self, ticket: Ticket, message: Handoff) -> None:
        assert ticket.destination is not None
        if ticket.link is None:
            self._outbox.to_worker(ticket.destination, message)
        else:
            self._outbox.over_link(ticket.link, message)

    def _over(self, ticket: Ticket) -> None:
        ticket.wanted = False
        self._on_over(ticket.sequence.leg)

    def _handed_over(self, ticket: Ticket) -> None:
        self._over(ticket)
        self._outbox.to_router(ticket.router_id, Released(leg=ticket.sequence.leg))

    def _not_handed_over(self, ticket: Ticket, outcome: NotHandedOver) -> None:
        if not ticket.wanted:
            return
        leg = ticket.sequence.leg
        if ticket.prefix_only:
            self._over(ticket)
            self._outbox.to_router(ticket.router_id, Kept(leg=leg, cause=outcome.cause))
            return
        if outcome.ambiguous:  # it may run there: going on here could run it twice
            self._over(ticket)
            failed = Failed(leg=leg, stage="transfer", cause=outcome.cause)
            self._outbox.to_router(ticket.router_id, failed)
            return
        ticket.kept = True
        self._outbox.to_router(ticket.router_id, Kept(leg=leg, cause=outcome.cause))
        if ticket.sequence.status is Status.HELD:
            self._engine.resume(ticket.sequence)

    def _closed(self, ticket: Ticket) -> None:
        ticket.sequence.pinned = False
        del self._legs[ticket.sequence.leg]
        if not ticket.wanted or ticket.sequence.status is Status.HELD:
            self._engine.drop(ticket.sequence)

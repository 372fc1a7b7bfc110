"""The source end of handoffs: carries out what `kv_transfer.handoff.source` decides."""

from __future__ import annotations

from collections.abc import Callable

from engine.engine import SequenceProgress
from engine.runner import OnLayer, Slice
from engine.sequence import Status
from kv_transfer.handoff.effects import (
    CutLink,
    Effect,
    HandedOver,
    NotHandedOver,
    Send,
    SourceClosed,
    Write,
)
from kv_transfer.handoff.source import SourceHandoff
from wire.handoff import Abort, Grant, Handoff, Quiesced
from wire.identity import AttemptId
from wire.messages import Destination, Failed, Kept, Released
from worker.steps.attempt_state import AttemptState
from worker.steps.block_sender import BlockSender, layers_per_write
from worker.steps.offers import final_state, make_offer
from worker.steps.step_context import Peer, StepContext


class SourceHandoffs:
    """All handoffs from this worker. Lives in the step loop's thread.

    A sequence is pinned from its offer until no write of it is outstanding. When a handoff fails,
    the worker keeps the sequence and decodes it: nothing is recomputed. `on_over(attempt_id)` is
    called when this worker no longer serves an attempt.
    """

    def __init__(self, context: StepContext, on_over: Callable[[AttemptId], None]) -> None:
        self._context = context
        self._config = context.config
        self._engine = context.engine
        self._outbox = context.outbox
        self._clock = context.clock
        self._sender = BlockSender(context)
        self._on_over = on_over
        self._attempts: dict[AttemptId, AttemptState] = {}
        self._num_offers = 0

    def __len__(self) -> int:
        return len(self._attempts)

    def __contains__(self, attempt_id: AttemptId) -> bool:
        return attempt_id in self._attempts

    def open(self, attempt: AttemptState) -> None:
        """Offer a sequence that has just been scheduled to its destination."""
        self._offer(attempt, len(attempt.sequence.tokens))

    def move(self, attempt: AttemptState, destination: Destination) -> None:
        """Hand over a sequence that runs here; if it decodes, its steps pause until the verdict."""
        sequence = attempt.sequence
        if sequence.attempt_id in self._attempts or sequence.status is not Status.RUNNING:
            cause = f"it cannot move now: {sequence.status.value}, or another handoff has not ended"
            self._outbox.to_router(
                attempt.router_id, Kept(attempt_id=sequence.attempt_id, cause=cause)
            )
            return
        attempt.destination, attempt.kept = destination, False
        if not sequence.decoding:
            self.open(attempt)
            return
        self._engine.hold(sequence)
        self._offer(attempt, sequence.num_computed)
        self._finish(attempt)

    def copy_prefix(self, attempt: AttemptState) -> None:
        """Copy a held sequence's blocks into the destination's prefix cache."""
        self._offer(attempt, len(attempt.sequence.tokens))
        self._finish(attempt)

    def _offer(self, attempt: AttemptState, num_tokens: int) -> None:
        self._num_offers += 1
        offer = make_offer(self._context, attempt, self._num_offers, num_tokens)
        deadline_s = self._config.transfer_deadline_s
        attempt.handoff = SourceHandoff(offer, transfer_deadline_s=deadline_s)
        attempt.link = None
        sequence = attempt.sequence
        sequence.pinned = True
        self._attempts[sequence.attempt_id] = attempt
        self._perform(attempt, attempt.handoff.start(self._clock()))
        self._computed(attempt, sequence.num_computed)

    def _computed(self, attempt: AttemptState, num_tokens: int) -> None:
        """`num_tokens` tokens of the sequence are in the cache: send them, or wait for the rest."""
        handoff, blocks = attempt.handoff, attempt.sequence.blocks
        assert handoff is not None
        if self._config.overlap or num_tokens >= handoff.offer.num_tokens:
            self._perform(attempt, handoff.computed(blocks, num_tokens))

    def _finish(self, attempt: AttemptState) -> None:
        """All that is handed over is computed: commit as soon as it has arrived."""
        assert attempt.handoff is not None
        self._perform(attempt, attempt.handoff.finish(final_state(attempt), self._clock()))

    def by_layers(self, slices: list[Slice]) -> OnLayer | None:
        """A callback for the step that computes these slices, if one of them is the last chunk of a
        prompt: it sends that chunk layer by layer."""
        layout = self._engine.runner.layout
        last_chunks = [
            (attempt, attempt.handoff, layers_per_write(layout, slice.count))
            for slice in slices
            if (attempt := self._attempts.get(slice.sequence.attempt_id)) is not None
            and self._config.overlap
            and attempt.handoff is not None
            and attempt.handoff.offer.num_tokens == slice.end
        ]

        def on_layer(num_layers: int) -> None:
            for attempt, handoff, group in last_chunks:
                if num_layers % group == 0 and num_layers < layout.num_layers:
                    blocks = attempt.sequence.blocks
                    self._perform(attempt, handoff.computed_layers(blocks, num_layers))

        return on_layer if last_chunks else None

    def progressed(self, attempt: AttemptState, progress: SequenceProgress) -> None:
        """A step has computed more of the prompt, sampled the first token, or ended the answer."""
        handoff, sequence = attempt.handoff, attempt.sequence
        if handoff is None or not attempt.wanted or attempt.kept:
            return
        if progress.finish is not None:
            self.cancel(attempt, "the answer ended with its first token")
            return
        self._computed(attempt, progress.end)
        if progress.sampled and sequence.status is Status.RUNNING:
            self._engine.hold(sequence)
            self._finish(attempt)

    def cancel(self, attempt: AttemptState, cause: str) -> None:
        """Abort the handoff; the sequence's blocks are freed when no write reads them any more."""
        self._over(attempt)
        assert attempt.handoff is not None
        self._perform(attempt, attempt.handoff.abort(cause, self._clock()))

    def receive(self, message: Handoff, peer: Peer) -> None:
        """Messages of an attempt's earlier destinations are answered with Quiesced."""
        attempt = self._attempts.get(message.attempt_id)
        handoff = None if attempt is None else attempt.handoff
        if attempt and handoff and message.ends == handoff.offer.ends:
            attempt.link = attempt.link or peer.link
            if attempt.link == peer.link:
                self._perform(attempt, handoff.receive(message, self._clock()))
        elif isinstance(message, Grant | Abort):
            # No record of the offer means that no write of it is outstanding on a living link: when
            # one fails, its session is hung up before anybody is told (TransferThread._fail).
            self._outbox.over_link(peer.link, Quiesced(**message.ends, epoch=None))

    def peer_lost(self, peer: Peer, cause: str) -> None:
        """The link to a destination has ended, or could not be made."""
        for attempt in list(self._attempts.values()):
            handoff = attempt.handoff
            assert handoff is not None
            if handoff.offer.destination == peer.ref and attempt.link in (None, peer.link):
                self._perform(attempt, handoff.peer_lost(cause))

    def tick(self, now: float) -> None:
        for attempt in list(self._attempts.values()):
            assert attempt.handoff is not None
            self._perform(attempt, attempt.handoff.tick(now))

    def _perform(self, attempt: AttemptState, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self._send(attempt, effect.message)
                case Write():
                    self._sender.post(attempt, effect, self._perform)
                case HandedOver():
                    self._handed_over(attempt)
                case NotHandedOver():
                    self._not_handed_over(attempt, effect)
                case SourceClosed():
                    self._closed(attempt)
                case CutLink():
                    assert attempt.link is not None
                    self._outbox.cut_link(attempt.link, effect.cause)

    def _send(self, attempt: AttemptState, message: Handoff) -> None:
        assert attempt.destination is not None
        if attempt.link is None:
            self._outbox.to_worker(attempt.destination, message)
        else:
            self._outbox.over_link(attempt.link, message)

    def _over(self, attempt: AttemptState) -> None:
        attempt.wanted = False
        self._on_over(attempt.sequence.attempt_id)

    def _handed_over(self, attempt: AttemptState) -> None:
        self._over(attempt)
        self._outbox.to_router(attempt.router_id, Released(attempt_id=attempt.sequence.attempt_id))

    def _not_handed_over(self, attempt: AttemptState, outcome: NotHandedOver) -> None:
        if not attempt.wanted:
            return
        attempt_id = attempt.sequence.attempt_id
        if attempt.prefix_only:
            self._over(attempt)
            self._outbox.to_router(
                attempt.router_id, Kept(attempt_id=attempt_id, cause=outcome.cause)
            )
            return
        if outcome.ambiguous:  # it may run there: to go on here could run it twice
            self._over(attempt)
            failed = Failed(attempt_id=attempt_id, stage="transfer", cause=outcome.cause)
            self._outbox.to_router(attempt.router_id, failed)
            return
        attempt.kept = True
        self._outbox.to_router(attempt.router_id, Kept(attempt_id=attempt_id, cause=outcome.cause))
        if attempt.sequence.status is Status.HELD:
            self._engine.resume(attempt.sequence)

    def _closed(self, attempt: AttemptState) -> None:
        attempt.sequence.pinned = False
        del self._attempts[attempt.sequence.attempt_id]
        if not attempt.wanted or attempt.sequence.status is Status.HELD:
            self._engine.drop(attempt.sequence)

"""The destination end of handoffs: carries out what `kv_transfer.destination` decides."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from engine.engine import Engine
from engine.policy import Room
from engine.sequence import Sequence
from kv_transfer.destination import DestinationHandoff, DestinationState
from kv_transfer.effects import Adopt, Effect, FreePages, LegLost, Send
from wire.handoff import Abort, Handoff, Offer, Refuse, RefuseReason
from wire.identity import Leg, WorkerRef
from wire.messages import Destination, Handed
from worker.config import WorkerConfig
from worker.tickets import Outbox, Ticket

NUM_TOMBSTONES = 4096
RETRY_AFTER_S = 0.5


class Incoming:
    """All legs that others hand to this worker. Lives in the step loop's thread.

    `on_adopt(ticket)` is told of every sequence that is ours from now on. Ended legs leave a
    tombstone, so that a message that comes late is never taken for a new offer.
    """

    def __init__(
        self,
        fingerprint: str,
        config: WorkerConfig,
        engine: Engine,
        outbox: Outbox,
        on_adopt: Callable[[Ticket], None],
        clock: Callable[[], float],
    ) -> None:
        self.draining = False
        self._fingerprint = fingerprint
        self._config = config
        self._engine = engine
        self._outbox = outbox
        self._on_adopt = on_adopt
        self._clock = clock
        self._legs: dict[Leg, DestinationHandoff] = {}
        self._sources: dict[Leg, Destination] = {}
        self._tombstones: OrderedDict[Leg, None] = OrderedDict()
        self._unreachable_since: dict[WorkerRef, float] = {}
        self._next_epoch = 1

    def __len__(self) -> int:
        return len(self._legs)

    def receive(self, message: Handoff, source: Destination) -> None:
        self._unreachable_since.pop(source.ref, None)
        handoff = self._legs.get(message.leg)
        if handoff is not None and message.ends == handoff.offer.ends:
            self._perform(handoff, handoff.receive(message))
        elif isinstance(message, Offer):
            self._answer(message, source)

    def cancel(self, leg: Leg, cause: str) -> None:
        """Also for a leg that has not been offered yet: its offer will be refused."""
        handoff = self._legs.get(leg)
        if handoff is not None:
            self._perform(handoff, handoff.abort(cause))
        else:
            self._bury(leg)

    def router_lost(self, router_id: str) -> None:
        """Sequences that are granted but not here yet have nobody to be decoded for."""
        for handoff in list(self._legs.values()):
            if handoff.offer.router_id == router_id:
                self._perform(handoff, handoff.abort(f"router {router_id} is gone"))

    def source_lost(self, source: WorkerRef, cause: str) -> None:
        for handoff in self._from(source):
            self._perform(handoff, handoff.source_lost(cause))

    def source_unreachable(self, source: WorkerRef, now: float) -> None:
        """Calling the source failed; after a while of that, its writes are over."""
        if not self._from(source):
            return
        since = self._unreachable_since.setdefault(source, now)
        if now - since >= self._config.fence_after_s:
            self.source_gone(source)

    def source_gone(self, source: WorkerRef) -> None:
        """The source's process has ended: another incarnation answers in its place, or nobody."""
        self._unreachable_since.pop(source, None)
        for handoff in self._from(source):
            self._perform(handoff, handoff.source_fenced())

    def tick(self, now: float) -> None:
        for handoff in list(self._legs.values()):
            self._perform(handoff, handoff.tick(now))
            if handoff.state is DestinationState.FENCING:
                self._ask_for_quiet(handoff)

    def _answer(self, offer: Offer, source: Destination) -> None:
        refusal = self._refusal(offer)
        handoff = None if refusal else self._try_grant(offer)
        if handoff is None:
            reason, detail = refusal or (RefuseReason.FULL, "no free blocks")
            refuse = Refuse(**offer.ends, reason=reason, detail=detail, retry_after_s=RETRY_AFTER_S)
            self._outbox.to_peer(source, refuse)
            return
        self._legs[offer.leg] = handoff
        self._sources[offer.leg] = source
        self._perform(handoff, handoff.grant())

    def _refusal(self, offer: Offer) -> tuple[RefuseReason, str] | None:
        if offer.leg in self._tombstones or offer.leg in self._legs:
            return RefuseReason.STALE, "this leg is over"
        if self.draining:
            return RefuseReason.DRAINING, "this worker takes no new sequences"
        if offer.fingerprint != self._fingerprint:
            detail = f"KV fingerprint {offer.fingerprint}, here {self._fingerprint}"
            return RefuseReason.INCOMPATIBLE, detail
        longest = self._engine.max_sequence_tokens
        if offer.max_tokens > longest:
            return RefuseReason.TOO_LONG, f"up to {offer.max_tokens} tokens, here {longest} fit"
        return None

    def _try_grant(self, offer: Offer) -> DestinationHandoff | None:
        """Reserve pages, less the prefix that is here already; None when there is no room.

        Sequences that were preempted here come first: new ones would take every block they need.
        """
        if self._engine.waiting:
            return None
        pool = self._engine.pool
        held = pool.acquire_prefix(offer.block_hashes)
        num_missing = self._engine.runner.layout.num_blocks(offer.num_tokens) - len(held)
        room = Room(pool.num_free, len(self._engine.running) + self._num_granted)
        admitted = self._engine.policy.admits(room, num_missing)
        pages = pool.try_allocate(num_missing) if admitted else None
        if pages is None:
            pool.release(held)
            return None
        self._next_epoch += 1
        return DestinationHandoff(
            offer,
            held,
            pages,
            epoch=self._next_epoch,
            block_size=self._engine.block_size,
            digest=self._engine.runner.digest,
            deadline=self._clock() + offer.deadline_s,
        )

    @property
    def _num_granted(self) -> int:
        return sum(h.state is DestinationState.GRANTED for h in self._legs.values())

    def _perform(self, handoff: DestinationHandoff, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self._outbox.to_peer(self._sources[handoff.offer.leg], effect.message)
                case Adopt():
                    self._adopt(handoff.offer, effect)
                case FreePages():
                    self._engine.pool.release(effect.blocks)
                case LegLost():
                    pass  # the source tells the router; here only the pages matter
        if handoff.state is DestinationState.CLOSED:
            self._forget(handoff.offer.leg)

    def ended(self, leg: Leg) -> None:
        """A sequence that was adopted here has ended."""
        handoff = self._legs.get(leg)
        if handoff is not None and handoff.state is DestinationState.ACCEPTED:
            self._forget(leg)

    def _forget(self, leg: Leg) -> None:
        del self._legs[leg], self._sources[leg]
        self._bury(leg)

    def _adopt(self, offer: Offer, adopt: Adopt) -> None:
        commit = adopt.commit
        sequence = Sequence(
            offer.leg,
            list(commit.tokens),
            commit.sampling,
            num_prompt=commit.num_prompt,
            cache_salt=offer.cache_salt,
        )
        sequence.blocks = list(adopt.blocks)
        sequence.num_computed = offer.num_tokens
        self._engine.adopt(sequence)
        # The source's token goes out once more, so that the router never meets a gap.
        num_sent = len(commit.tokens) - 1
        ticket = Ticket(sequence, offer.router_id, num_sent, self._clock(), prefilled=True)
        if commit.logprob is not None:
            ticket.unsent_logprobs = (commit.logprob,)
        self._on_adopt(ticket)
        self._outbox.to_router(offer.router_id, Handed(leg=offer.leg, moved=commit.moved))

    def _ask_for_quiet(self, handoff: DestinationHandoff) -> None:
        """A source answers an abort with Quiesced, also when it no longer knows the leg."""
        abort = Abort(**handoff.offer.ends, cause="waiting for quiescence", by_source=False)
        self._outbox.to_peer(self._sources[handoff.offer.leg], abort)

    def __contains__(self, leg: Leg) -> bool:
        return leg in self._legs

    def _from(self, source: WorkerRef) -> list[DestinationHandoff]:
        return [h for h in self._legs.values() if h.offer.source == source]

    def _bury(self, leg: Leg) -> None:
        self._tombstones[leg] = None
        if len(self._tombstones) > NUM_TOMBSTONES:
            self._tombstones.popitem(last=False)

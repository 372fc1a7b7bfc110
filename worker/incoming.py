"""The destination end of handoffs: carries out what `kv_transfer.destination` decides."""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable

from engine.engine import Engine
from engine.policy import Room
from engine.sequence import Sequence
from kv_transfer.destination import DestinationHandoff, DestinationState
from kv_transfer.effects import Adopt, CutLink, Effect, FreePages, LegLost, Send
from kv_transfer.endpoint import Endpoint
from kv_transfer.exchange import CannotExchange, check_exchange
from kv_transfer.hashing import block_hashes
from runtime.handoffs import HandoffBook
from wire.handoff import Commit, Handoff, Offer, Refuse, RefuseReason, Stale
from wire.identity import Leg
from wire.messages import Handed
from worker.config import WorkerConfig
from worker.tickets import Outbox, Peer, Ticket

NUM_TOMBSTONES = 4096
RETRY_AFTER_S = 0.5
log = logging.getLogger(__name__)


class Incoming:
    """All legs that others hand to this worker. Lives in the step loop's thread.

    `on_adopt(ticket)` is told of every sequence that is ours from now on. Ended legs leave a
    tombstone, so that a message that comes late is never taken for a new offer.
    """

    def __init__(
        self,
        content: str,
        config: WorkerConfig,
        engine: Engine,
        endpoint: Endpoint,
        outbox: Outbox,
        on_adopt: Callable[[Ticket], None],
        clock: Callable[[], float],
    ) -> None:
        self.draining = False
        self._content = content
        self._config = config
        self._engine = engine
        self._endpoint = endpoint
        self._outbox = outbox
        self._on_adopt = on_adopt
        self._clock = clock
        self._legs: dict[Leg, DestinationHandoff] = {}
        self._links: dict[Leg, str] = {}
        self._tombstones: OrderedDict[Leg, None] = OrderedDict()
        self._next_epoch = 1
        self.arrived = HandoffBook()
        self.num_offers: Counter[str] = Counter()
        """By the answer."""

    def __len__(self) -> int:
        return len(self._legs)

    def receive(self, message: Handoff, source: Peer) -> None:
        handoff = self._legs.get(message.leg)
        if handoff is not None and message.ends == handoff.offer.ends:
            if self._links[message.leg] == source.link:
                self._perform(handoff, handoff.receive(message, self._clock()))
        elif isinstance(message, Offer):
            self._answer(message, source)
        elif isinstance(message, Commit):
            self._outbox.over_link(source.link, Stale(**message.ends))

    def cancel(self, leg: Leg, cause: str) -> None:
        """Also for a leg that has not been offered yet: its offer will be refused."""
        handoff = self._legs.get(leg)
        if handoff is not None:
            self._perform(handoff, handoff.abort(cause, self._clock()))
        else:
            self._bury(leg)

    def router_lost(self, router_id: str) -> None:
        """Sequences that are granted but not here yet have nobody to be decoded for."""
        for handoff in list(self._legs.values()):
            if handoff.offer.router_id == router_id:
                cause = f"router {router_id} is gone"
                self._perform(handoff, handoff.abort(cause, self._clock()))

    def source_lost(self, link: str, cause: str) -> list[DestinationHandoff]:
        """A source's session ended. Returns the legs that wait until its link is fenced."""
        lost = [handoff for leg, handoff in self._legs.items() if self._links[leg] == link]
        for handoff in lost:
            self._perform(handoff, handoff.source_lost(cause))
        return [handoff for handoff in lost if handoff.state is DestinationState.FENCING]

    def source_fenced(self, lost: list[DestinationHandoff]) -> None:
        """Nothing that was sent over the lost legs' link lands any more."""
        for handoff in lost:
            self._perform(handoff, handoff.source_fenced())

    def tick(self, now: float) -> None:
        for handoff in list(self._legs.values()):
            self._perform(handoff, handoff.tick(now))

    def _answer(self, offer: Offer, source: Peer) -> None:
        refusal = self._refusal(offer)
        handoff = None if refusal else self._try_grant(offer)
        if handoff is None:
            reason, detail = refusal or (RefuseReason.FULL, "no free blocks")
            self.num_offers[reason.value] += 1
            log.debug("leg %s, offered by %s, is refused: %s", offer.leg, offer.source, detail)
            refuse = Refuse(**offer.ends, reason=reason, detail=detail, retry_after_s=RETRY_AFTER_S)
            self._outbox.over_link(source.link, refuse)
            return
        self.num_offers["granted"] += 1
        log.debug("leg %s, offered by %s, may come", offer.leg, offer.source)
        if offer.grammar is not None and self._engine.followers.grammars is not None:
            self._engine.followers.grammars.expect(offer.grammar)
        self._legs[offer.leg] = handoff
        self._links[offer.leg] = source.link
        self._perform(handoff, handoff.grant())

    def _refusal(self, offer: Offer) -> tuple[RefuseReason, str] | None:
        if offer.leg in self._tombstones or offer.leg in self._legs:
            return RefuseReason.STALE, "this leg is over"
        if self.draining:
            return RefuseReason.DRAINING, "this worker takes no new sequences"
        problem = self._incompatibility(offer)
        if problem is not None:
            return RefuseReason.INCOMPATIBLE, problem
        if offer.grammar is not None and self._engine.followers.grammars is None:
            return RefuseReason.INCOMPATIBLE, "no tokenizer.json here to follow a grammar with"
        longest = self._engine.max_sequence_tokens
        if offer.max_tokens > longest:
            return RefuseReason.TOO_LONG, f"up to {offer.max_tokens} tokens, here {longest} fit"
        return None

    def _try_grant(self, offer: Offer) -> DestinationHandoff | None:
        """Reserve pages, less the prefix that is here already; None when there is no room.

        Sequences that were preempted here come first: new ones would take every block they need.
        """
        if self._engine.waiting and not offer.prefix_only:
            return None
        pool, layout = self._engine.pool, self._endpoint.layout
        held = self._held_prefix(offer)
        num_missing = layout.num_blocks(offer.num_tokens) - len(held)
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
            layout=layout,
            digest=self._endpoint.digest(offer.layout),
            deadline=self._clock() + offer.deadline_s,
            fence_deadline_s=self._config.fence_deadline_s,
        )

    def _held_prefix(self, offer: Offer) -> list[int]:
        """Blocks that are here already, referenced; they end where a block of the source ends."""
        size = self._engine.block_size
        held = self._engine.pool.acquire_prefix(block_hashes(offer.tokens, size, offer.cache_salt))
        per_unit = max(1, offer.layout.block_size // size)
        whole = len(held) // per_unit * per_unit
        self._engine.pool.note_hits(held[:whole])
        self._engine.pool.release(held[whole:])
        return held[:whole]

    def _incompatibility(self, offer: Offer) -> str | None:
        if offer.content != self._content:
            return f"the source holds {offer.content}, this worker {self._content}"
        try:
            check_exchange(offer.layout, self._endpoint.layout)
        except CannotExchange as error:
            return str(error)
        return None

    @property
    def _num_granted(self) -> int:
        return sum(h.state is DestinationState.GRANTED for h in self._legs.values())

    def _perform(self, handoff: DestinationHandoff, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self._outbox.over_link(self._links[handoff.offer.leg], effect.message)
                case Adopt():
                    self._adopt(handoff.offer, effect)
                case FreePages():
                    self._engine.pool.release(effect.blocks)
                case LegLost():
                    pass  # the source tells the router; here only the pages matter
                case CutLink():
                    self._outbox.cut_link(self._links[handoff.offer.leg], effect.cause)
        done = handoff.state is DestinationState.ACCEPTED and handoff.offer.prefix_only
        if done or handoff.state is DestinationState.CLOSED:
            self._forget(handoff.offer.leg)

    def ended(self, leg: Leg) -> None:
        """A sequence that was adopted here has ended."""
        handoff = self._legs.get(leg)
        if handoff is not None and handoff.state is DestinationState.ACCEPTED:
            self._forget(leg)

    def _forget(self, leg: Leg) -> None:
        del self._legs[leg], self._links[leg]
        self._bury(leg)

    def _adopt(self, offer: Offer, adopt: Adopt) -> None:
        commit = adopt.commit
        sequence = Sequence(
            offer.leg,
            [*offer.tokens, *commit.new_tokens],
            commit.sampling,
            num_prompt=commit.num_prompt,
            cache_salt=offer.cache_salt,
            priority=offer.priority,
            tenant=offer.tenant,
        )
        sequence.blocks = list(adopt.blocks)
        sequence.num_computed = offer.num_tokens
        self._engine.adopt(sequence)
        if offer.prefix_only:
            self._engine.drop(sequence)  # its blocks stay as cache
            self._tell_handed(offer, commit)
            return
        # The source's token goes out once more, so that the router never meets a gap.
        ticket = Ticket(sequence, offer.router_id, offer.num_tokens, self._clock(), prefilled=True)
        if commit.logprob is not None:
            ticket.unsent_logprobs = (commit.logprob,)
        ticket.unsent_scores = commit.prompt_logprobs
        self._on_adopt(ticket)
        self._tell_handed(offer, commit)

    def _tell_handed(self, offer: Offer, commit: Commit) -> None:
        self.arrived.add(offer.source, offer.destination, commit.moved)
        handed = Handed(leg=offer.leg, source=offer.source, moved=commit.moved)
        self._outbox.to_router(offer.router_id, handed)

    def __contains__(self, leg: Leg) -> bool:
        return leg in self._legs

    def _bury(self, leg: Leg) -> None:
        self._tombstones[leg] = None
        if len(self._tombstones) > NUM_TOMBSTONES:
            self._tombstones.popitem(last=False)

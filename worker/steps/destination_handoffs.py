"""The destination end of handoffs: carries out what `kv_transfer.handoff.destination` decides."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from engine.cache.reservation import OfferedSequence
from engine.sequence import Sequence
from kv_transfer.handoff.destination import DestinationHandoff, DestinationState
from kv_transfer.handoff.effects import (
    Adopt,
    AttemptLost,
    CutLink,
    Effect,
    FreeBlocks,
    Send,
    Verify,
)
from kv_transfer.layout.checksum import Checksum, try_sum
from runtime.handoffs import HandoffCounters
from wire.handoff import Commit, Handoff, Offer, Refuse, RefuseReason, Stale
from wire.identity import AttemptId
from wire.messages import Handed
from worker.steps.attempt_state import AttemptState
from worker.steps.ended_attempts import EndedAttempts
from worker.steps.offers import why_refused
from worker.steps.step_context import Peer, StepContext

RETRY_AFTER_S = 0.5
"""When a refused source may offer again."""
log = logging.getLogger(__name__)


class DestinationHandoffs:
    """All handoffs to this worker. Lives in the step loop's thread.

    `on_adopt(attempt)` is called for every sequence that has become this worker's to decode. Ended
    attempts are remembered, so that a late message is never taken for a new offer.
    """

    def __init__(self, context: StepContext, on_adopt: Callable[[AttemptState], None]) -> None:
        self.draining = False
        self._context = context
        self._config = context.config
        self._engine = context.engine
        self._endpoint = context.endpoint
        self._outbox = context.outbox
        self._clock = context.clock
        self._on_adopt = on_adopt
        self._attempts: dict[AttemptId, DestinationHandoff] = {}
        self._links: dict[AttemptId, str] = {}
        self._checksums: dict[AttemptId, Checksum] = {}
        """Of blocks that are being verified."""
        self._ended = EndedAttempts()
        self._next_epoch = 1
        self.arrived = HandoffCounters()
        self.num_offers: Counter[str] = Counter()
        """Offers of other workers, counted by the answer."""

    def __len__(self) -> int:
        return len(self._attempts)

    def receive(self, message: Handoff, source: Peer) -> None:
        handoff = self._attempts.get(message.attempt_id)
        if handoff is not None and message.ends == handoff.offer.ends:
            if self._links[message.attempt_id] == source.link:
                self._perform(handoff, handoff.receive(message, self._clock()))
        elif isinstance(message, Offer):
            self._answer(message, source)
        elif isinstance(message, Commit):
            self._outbox.over_link(source.link, Stale(**message.ends))

    def cancel(self, attempt_id: AttemptId, cause: str) -> None:
        """End an attempt; if it has not been offered yet, its offer will be refused."""
        handoff = self._attempts.get(attempt_id)
        if handoff is not None:
            self._perform(handoff, handoff.abort(cause, self._clock()))
        else:
            self._ended.add(attempt_id)

    def router_lost(self, router_id: str) -> None:
        """Abort the granted handoffs of a router whose session has ended."""
        for handoff in list(self._attempts.values()):
            if handoff.offer.router_id == router_id:
                cause = f"router {router_id} is gone"
                self._perform(handoff, handoff.abort(cause, self._clock()))

    def source_lost(self, link: str, cause: str) -> list[DestinationHandoff]:
        """A source's session has ended. Returns the handoffs that wait until its link is fenced."""
        lost = [
            handoff
            for attempt_id, handoff in self._attempts.items()
            if self._links[attempt_id] == link
        ]
        for handoff in lost:
            self._perform(handoff, handoff.source_lost(cause))
        return [handoff for handoff in lost if handoff.state is DestinationState.FENCING]

    def source_fenced(self, lost: list[DestinationHandoff]) -> None:
        """The link of these handoffs is fenced: nothing sent over it lands any more."""
        for handoff in lost:
            self._perform(handoff, handoff.source_fenced())

    @property
    def verifying(self) -> bool:
        """Whether checksums are under way, which `poll` looks at."""
        return bool(self._checksums)

    def poll(self) -> None:
        """Accept or reject what has been verified; waits for nothing."""
        for attempt_id, checksum in list(self._checksums.items()):
            found = try_sum(checksum)
            if found is not None:
                del self._checksums[attempt_id]
                handoff = self._attempts[attempt_id]
                self._perform(handoff, handoff.checksummed(found))

    def tick(self, now: float) -> None:
        for handoff in list(self._attempts.values()):
            self._perform(handoff, handoff.tick(now))

    def _answer(self, offer: Offer, source: Peer) -> None:
        refusal = self._refusal(offer)
        handoff = None if refusal else self._try_grant(offer)
        if handoff is None:
            reason, detail = refusal or (RefuseReason.FULL, "no free blocks")
            self.num_offers[reason.value] += 1
            log.debug(
                "attempt %s, offered by %s, is refused: %s", offer.attempt_id, offer.source, detail
            )
            refuse = Refuse(**offer.ends, reason=reason, detail=detail, retry_after_s=RETRY_AFTER_S)
            self._outbox.over_link(source.link, refuse)
            return
        self.num_offers["granted"] += 1
        log.debug("attempt %s, offered by %s, may come", offer.attempt_id, offer.source)
        if offer.grammar is not None and self._engine.grammar_sequences.grammars is not None:
            self._engine.grammar_sequences.grammars.expect(offer.grammar)
        self._attempts[offer.attempt_id] = handoff
        self._links[offer.attempt_id] = source.link
        self._perform(handoff, handoff.grant())

    def _refusal(self, offer: Offer) -> tuple[RefuseReason, str] | None:
        if offer.attempt_id in self._ended or offer.attempt_id in self._attempts:
            return RefuseReason.STALE, "this attempt is over"
        if self.draining:
            return RefuseReason.DRAINING, "this worker takes no new sequences"
        return why_refused(self._context, offer)

    def _try_grant(self, offer: Offer) -> DestinationHandoff | None:
        """Reserve blocks, those of the prefix that is here already included; None without room."""
        offered = OfferedSequence(
            offer.tokens, offer.traits, offer.layout.block_size, runs=not offer.prefix_only
        )
        reserved = self._engine.try_reserve(offered, self._num_granted)
        if reserved is None:
            return None
        self._next_epoch += 1
        return DestinationHandoff(
            offer,
            reserved.cached,
            reserved.blank,
            epoch=self._next_epoch,
            layout=self._endpoint.layout,
            deadline=self._clock() + offer.deadline_s,
            fence_deadline_s=self._config.fence_deadline_s,
        )

    @property
    def _num_granted(self) -> int:
        return sum(h.state is DestinationState.GRANTED for h in self._attempts.values())

    def _perform(self, handoff: DestinationHandoff, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self._outbox.over_link(self._links[handoff.offer.attempt_id], effect.message)
                case Verify():
                    effects += self._verify(handoff, effect)
                case Adopt():
                    self._adopt(handoff.offer, effect)
                case FreeBlocks():
                    self._engine.pool.release(effect.blocks)
                case AttemptLost():
                    pass  # the source tells the router; here only the blocks matter
                case CutLink():
                    self._outbox.cut_link(self._links[handoff.offer.attempt_id], effect.cause)
        done = handoff.state is DestinationState.ACCEPTED and handoff.offer.prefix_only
        if done or handoff.state is DestinationState.CLOSED:
            self._forget(handoff.offer.attempt_id)

    def _verify(self, handoff: DestinationHandoff, verify: Verify) -> list[Effect]:
        """Start to compute a checksum. Returns the effects of one that is known at once."""
        compute = self._endpoint.checksum(handoff.offer.layout)
        checksum = compute(verify.blocks, verify.first)
        found = try_sum(checksum)
        if found is not None:
            return handoff.checksummed(found)
        self._checksums[handoff.offer.attempt_id] = checksum
        return []

    def ended(self, attempt_id: AttemptId) -> None:
        """An adopted sequence has ended."""
        handoff = self._attempts.get(attempt_id)
        if handoff is not None and handoff.state is DestinationState.ACCEPTED:
            self._forget(attempt_id)

    def _forget(self, attempt_id: AttemptId) -> None:
        del self._attempts[attempt_id], self._links[attempt_id]
        self._ended.add(attempt_id)

    def _adopt(self, offer: Offer, adopt: Adopt) -> None:
        commit = adopt.commit
        sequence = Sequence(
            offer.attempt_id,
            [*offer.tokens, *commit.new_tokens],
            commit.sampling,
            num_prompt=commit.num_prompt,
            traits=offer.traits,
        )
        sequence.blocks = list(adopt.blocks)
        sequence.num_computed = offer.num_tokens
        self._engine.adopt(sequence)
        if offer.prefix_only:
            self._engine.drop(sequence)  # its blocks stay in the prefix cache
            self._report_handed(offer, commit)
            return
        # The source's token is sent once more, so that the router never sees a gap.
        attempt = AttemptState(
            sequence, offer.router_id, offer.num_tokens, self._clock(), prefilled=True
        )
        if commit.logprob is not None:
            attempt.unsent_logprobs = (commit.logprob,)
        attempt.unsent_prompt_logprobs = commit.prompt_logprobs
        self._on_adopt(attempt)
        self._report_handed(offer, commit)

    def _report_handed(self, offer: Offer, commit: Commit) -> None:
        self.arrived.add(offer.source, offer.destination, commit.moved)
        handed = Handed(attempt_id=offer.attempt_id, source=offer.source, moved=commit.moved)
        self._outbox.to_router(offer.router_id, handed)

    def __contains__(self, attempt_id: AttemptId) -> bool:
        return attempt_id in self._attempts

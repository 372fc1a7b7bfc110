"""One request's way through the fleet: placed, submitted, merged, and placed again when it fails.

A journey is one async generator. Every attempt is an attempt of its own, numbered; whatever ends an
attempt without a result cancels it on both workers.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from functools import partial

import msgspec

from router.answers.direct import Direct
from router.answers.token_merger import TokenMerger, Tokens
from router.config import RouterConfig
from router.errors import Internal, InvalidRequest, Unavailable
from router.fleet.attempt_log import AttemptFailed, AttemptLog
from router.fleet.fleet import Fleet
from router.fleet.mailbox import DeadlinePassed, Mailbox, RouterStops, WorkerEvent
from router.fleet.member import Member, MemberState
from router.fleet.prefix_fetch import fetch_prefix
from router.fleet.unread import Reader
from router.journeys.attempt_events import AttemptEvents, too_late
from router.journeys.needs import Needs
from router.placing.cost_model import Hits
from router.placing.ledger import Ledger, PromptHashes
from router.placing.placement_request import Placement, Refusal, RefusalReason
from router.queueing.admitted import Admitted
from router.requests.request import GenerateRequest
from router.requests.trace import draw_leg_id
from runtime.session import SessionClosed
from wire.identity import AttemptId, WorkerRef
from wire.messages import CopyPrefix, Destination, Move, Submit
from wire.sampling import SamplingParams

log = logging.getLogger("tandem.router.journey")


class Journey:
    """Serves one request. `record` tells how, at any time."""

    def __init__(
        self,
        request: GenerateRequest,
        fleet: Fleet,
        config: RouterConfig,
        at: WorkerRef | None = None,
        entry: Admitted | None = None,
        direct: Direct | None = None,
        client: Reader | None = None,
    ) -> None:
        """`at` is a worker that has the whole prompt: it is tried first, alone. What can goes
        `direct` to the client, and is not yielded; what waits for it is counted with `client`."""
        self._request = request
        self._at = at
        self._fleet = fleet
        self._config = config
        self._leg_id = draw_leg_id(request.request_id, request.trace_id)
        self._merger = TokenMerger(request.prompt_tokens)
        self._mailbox = Mailbox(client)
        self._direct = direct
        self._avoid: set[WorkerRef] = set()
        self._num_failed = 0
        self._clock = fleet.clock
        self._began_s = began_s = self._clock.now()
        entry = entry or Admitted(PromptHashes(request.traits), began_s)
        self._needs = Needs(
            self._leg_id, request, config, fleet.ledger, entry, self._merger, self._clock
        )
        self._deadline = began_s + request.timeout_s
        self.record = AttemptLog()

    async def tokens(self) -> AsyncGenerator[Tokens, None]:
        """New tokens as they come, the last with a finish reason.

        Raises Unavailable, DeadlineExceeded, InvalidRequest or Internal.
        """
        timer = self._clock.call_at(
            self._deadline, partial(self._mailbox.put, None, DeadlinePassed())
        )
        try:
            for attempt in itertools.count():
                try:
                    async with aclosing(self._attempt(attempt)) as stream:
                        async for tokens in stream:
                            yield tokens
                    return
                except AttemptFailed as failure:
                    log.info("attempt %s/%d failed: %s", self._leg_id, attempt, failure)
                    self._give_up_unless_retryable(failure)
        finally:
            timer.cancel()
            self._mailbox.close()

    @property
    def elapsed_s(self) -> float:
        """Since it began, without the time in which this process stood still."""
        return self._clock.now() - self._began_s

    def stop(self) -> None:
        """Ends it with Unavailable, cancelled on its workers."""
        self._mailbox.put(None, RouterStops())

    def _give_up_unless_retryable(self, failure: AttemptFailed) -> None:
        """Sessions that end after a standstill of this router say nothing against their workers,
        and may end one after the other."""
        if failure.lost and self._fleet.may_come_back_s:
            return
        self._avoid.add(failure.worker)
        self._num_failed += 1
        text = f"request {self._request.request_id}: {failure}"
        if not failure.retryable:
            raise Internal(text)
        if self._num_failed == self._config.max_attempts:
            attempts = f"gave up after {self.record.attempts} attempts"
            raise Unavailable(f"{text}; {attempts}", reason="workers_failed")

    async def _attempt(self, attempt: int) -> AsyncGenerator[Tokens, None]:
        placement = await self._place()
        attempt_id = AttemptId(self._leg_id, attempt)
        self.record = AttemptLog(attempts=attempt + 1, placement=placement)
        news = AttemptEvents(attempt_id, self._request, self.record, self._merger, self._mailbox)
        hits = self._needs.hits()
        members = self._attach(attempt_id, placement, hits)
        log.debug(
            "attempt %s goes to %s, then to %s", attempt_id, placement.first, placement.destination
        )
        refused: set[WorkerRef] = set()
        finished = False
        if self._direct is not None:
            self._mailbox.direct = partial(self._pass_on, self._direct, news)
        try:
            if placement.first != self._at:
                await self._fetch_prefix(attempt_id, members[0], hits)
            self._submit(attempt_id, members)
            while not finished:
                tokens = await news.tokens()
                finished = tokens.finish is not None
                if tokens.tokens or finished:
                    self._needs.came(tell_lobby=self._at is None)
                    yield tokens
                if self.record.kept is not None and not finished:
                    self._try_another_destination(attempt_id, members, refused)
                if tokens.gap is not None:
                    worker = self.record.worker or placement.first
                    raise AttemptFailed(self.record.stage, worker, tokens.gap, retryable=True)
            if not self.record.complete:
                await news.wait_until_complete(self._config.report_wait_s)
        finally:
            self._mailbox.direct = None
            for member in members:
                if not finished:
                    member.cancel(attempt_id)
                member.detach(attempt_id)
                member.ledger.ended(member.ref, attempt_id)

    def _pass_on(
        self, direct: Direct, news: AttemptEvents, sender: WorkerRef | None, item: WorkerEvent
    ) -> bool:
        output = news.next_output(sender, item) if direct.ready() else None
        if output is None:
            return False
        direct.take(output)
        return True

    async def _place(self) -> Placement:
        """Waits a little when nobody can serve: a worker may be about to join."""
        now = self._clock.now
        if now() >= self._deadline:
            raise too_late(self._request, self.record)
        away_s = min(self._fleet.may_come_back_s, self._deadline - now())
        until = now() + max(self._config.join_wait_s, away_s)
        while isinstance(found := self._find_place(), Refusal):
            if found.reason is RefusalReason.TOO_LONG:
                raise InvalidRequest(found.detail, "prompt")
            if now() >= until:
                raise Unavailable(f"request {self._request.request_id}: {found.detail}")
            await self._fleet.wait_changed(until - now())
        return found

    def _find_place(self) -> Placement | Refusal:
        if self._at is not None and self.record.attempts == 0:
            member = self._fleet.member(self._at)
            if member is not None and member.state is MemberState.READY:
                self._needs.ledger = member.ledger
                return Placement(self._at, None)
        if self._merger.num_output == 0:
            self._needs.ledger = self._fleet.ledger
        found = self._needs.place(self._avoid)
        nobody = isinstance(found, Refusal) and found.reason is RefusalReason.NO_WORKERS
        if nobody and self._ledger is not self._fleet.ledger:
            text = "no worker is left of the model's revision that began the answer"
            return Refusal(RefusalReason.NO_WORKERS, f"{text}, and no other can go on with it")
        return found

    def _try_another_destination(
        self, attempt_id: AttemptId, members: list[Member], refused: set[WorkerRef]
    ) -> None:
        """The first worker kept the sequence: its blocks may still go elsewhere, none recomputed.

        Each destination is asked once in an attempt; when none is left the first worker goes on.
        """
        first, former = members[0], self.record.destination
        if former is None or former in refused:
            return
        refused.add(former)
        self._ledger.ended(former, attempt_id)
        avoid = self._avoid | refused
        found = self._needs.another_destination(first.ref, avoid)
        member = None if found is None else self._fleet.member(found)
        if member is None:
            return
        member.attach(attempt_id, self._mailbox)
        members.append(member)
        self._ledger.expect(member.ref, attempt_id, self._needs.need(avoid))
        self.record.go_to(member.ref)
        with suppress(SessionClosed):  # its loss is among the news that come next
            first.send(Move(attempt_id=attempt_id, destination=_destination(member)))

    @property
    def _sampling(self) -> SamplingParams:
        """What came with the first token is not asked for again."""
        sampling = self._request.sampling
        if sampling.prompt_logprobs is None or not self._merger.num_output:
            return sampling
        return msgspec.structs.replace(sampling, prompt_logprobs=None)

    @property
    def _ledger(self) -> Ledger:
        """Of the revision that answers: once it has begun to, no other one can go on."""
        return self._needs.ledger

    def learn(self, num_tokens: int) -> None:
        """The answer is complete with so many tokens: its reader tells, who may know it before the
        workers do."""
        self._needs.answered(num_tokens)

    def _attach(self, attempt_id: AttemptId, placement: Placement, hits: Hits) -> list[Member]:
        """Both ends listen before anything is sent: the second may speak before the first."""
        refs = [ref for ref in (placement.first, placement.destination) if ref is not None]
        members = [member for ref in refs if (member := self._fleet.member(ref)) is not None]
        assert len(members) == len(refs), "the fleet changed without an await"
        for member in members:
            member.attach(attempt_id, self._mailbox)
        need, now = self._needs.need(self._avoid), self._clock.now()
        self._ledger.placed(attempt_id, placement, need, hits, now)
        return members

    async def _fetch_prefix(self, attempt_id: AttemptId, first: Member, hits: Hits) -> None:
        """What another worker has cached need not be computed again; logits it has none."""
        if self._sampling.prompt_logprobs is not None:
            return
        holder = self._ledger.prefix_holder(hits, first.ref, self._config.fetch_min_tokens)
        source = None if holder is None else self._fleet.member(holder)
        if source is None:
            return
        remaining_s = self._deadline - self._clock.now()
        share = CopyPrefix(
            attempt_id=AttemptId(f"{attempt_id.request_id}~prefix", attempt_id.number),
            tokens=self._merger.sequence,
            destination=_destination(first),
            traits=self._request.traits,
        )
        wait_s = min(self._config.fetch_wait_s, remaining_s)
        self.record.fetched = await fetch_prefix(share, source, first, wait_s)

    def _submit(self, attempt_id: AttemptId, members: Sequence[Member]) -> None:
        first, *others = members
        submit = Submit(
            attempt_id=attempt_id,
            tokens=self._merger.sequence,
            num_prompt=self._merger.num_prompt,
            sampling=self._sampling,
            destination=_destination(others[0]) if others else None,
            traits=self._request.traits,
            deadline_s=self._deadline - self._clock.now(),
            number=self._ledger.submitted(first.ref, attempt_id),
        )
        try:
            first.send(submit)
        except SessionClosed as error:
            raise AttemptFailed(
                "submit", first.ref, str(error), retryable=True, lost=True
            ) from error


def _destination(member: Member) -> Destination:
    return Destination(ref=member.ref, address=member.card.address)

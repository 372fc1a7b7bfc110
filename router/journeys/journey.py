"""One request's way through the fleet: placed, submitted, merged, and placed again when it fails.

A journey is one coroutine, which waits for the end of one numbered attempt after the other; tokens
do not pass it. Whatever ends an attempt without a result cancels it on all its workers.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import msgspec

from router.answers.token_merger import TokenMerger
from router.config import RouterConfig
from router.errors import Internal, InvalidRequest, RouterError, Unavailable
from router.fleet.attempt_log import AttemptFailed, AttemptLog
from router.fleet.fleet import Fleet
from router.fleet.member import Member, MemberState
from router.fleet.prefix_fetch import fetch_prefix
from router.journeys.attempt import Attempt, TakeOutput, too_late
from router.journeys.placer import Placer
from router.placing.cost_model import Hits
from router.placing.ledger import Ledger, PromptHashes
from router.placing.placement_request import Refusal, RefusalReason
from router.queueing.admitted import Admitted, Found
from router.requests.request import GenerateRequest
from router.requests.trace import draw_attempt_name
from runtime.session import SessionClosed
from wire.identity import AttemptId, WorkerRef
from wire.messages import CopyPrefix, Destination, Move, Output, Submit
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
        admitted: Admitted | None = None,
    ) -> None:
        """`at` is a worker that has the whole prompt: it is tried first, alone."""
        self._request = request
        self._at = at
        self._fleet = fleet
        self._config = config
        self._attempt_name = draw_attempt_name(request.request_id, request.trace_id)
        self._merger = TokenMerger(request.prompt_tokens)
        self._attempt: Attempt | None = None
        self._members: list[Member] = []
        """Workers of the running attempt; the first one prefills."""
        self._refused: set[WorkerRef] = set()
        """Destinations to which this attempt's handoffs failed."""
        self._interrupted: RouterError | None = None
        self._home_known = asyncio.Event()
        self._avoid: set[WorkerRef] = set()
        self._num_failed = 0
        self._clock = fleet.clock
        self._began_s = began_s = self._clock.now()
        admitted = admitted or Admitted(PromptHashes(request.traits), began_s)
        self._placer = Placer(self._attempt_name, request, config, fleet, admitted, self._merger)
        self._deadline = began_s + request.timeout_s
        self.record = AttemptLog()

    async def run(self, take: TakeOutput) -> None:
        """Until a worker has finished the answer, or the answer wants no more; `take` is called
        with new tokens when they come.

        Raises Unavailable, DeadlineExceeded, InvalidRequest, Internal, or what `take` has raised.
        """
        timer = self._clock.call_at(self._deadline, self._time_is_over)
        try:
            for number in itertools.count():
                try:
                    await self._try(number, take)
                    return
                except AttemptFailed as failure:
                    log.info("attempt %s/%d failed: %s", self._attempt_name, number, failure)
                    self._give_up_unless_retryable(failure)
        finally:
            timer.cancel()
            self._home_known.set()

    @property
    def elapsed_s(self) -> float:
        """Since it began, without the time in which this process stood still."""
        return self._clock.now() - self._began_s

    async def home(self) -> WorkerRef | None:
        """Wait for the worker that has its prompt and decodes it; None when it ends before."""
        await self._home_known.wait()
        return self.record.home

    def stop(self) -> None:
        """End it with Unavailable, and cancel it on its workers."""
        text = f"request {self._request.request_id}: this router was stopped"
        self._interrupt(Unavailable(text, reason="stopped"))

    def _time_is_over(self) -> None:
        self._interrupt(too_late(self._request, self.record))

    def _interrupt(self, error: RouterError) -> None:
        """End the running attempt, or else the next before it is submitted."""
        self._interrupted = error
        if self._attempt is not None:
            self._attempt.fail(error)

    def _give_up_unless_retryable(self, failure: AttemptFailed) -> None:
        """Sessions that end after a standstill of this router say nothing against their workers,
        and may end one after the other."""
        if failure.lost and self._fleet.rejoin_wait_s:
            return
        self._avoid.add(failure.worker)
        self._num_failed += 1
        text = f"request {self._request.request_id}: {failure}"
        if not failure.retryable:
            raise Internal(text)
        if self._num_failed == self._config.max_attempts:
            attempts = f"gave up after {self.record.attempts} attempts"
            raise Unavailable(f"{text}; {attempts}", reason="workers_failed")

    async def _try(self, number: int, take: TakeOutput) -> None:
        """One attempt, from its placement to its end."""
        found = await self._place()
        placement = found.placement
        if self._interrupted is not None:
            raise self._interrupted
        attempt_id = AttemptId(self._attempt_name, number)
        self.record = AttemptLog(attempts=number + 1, placement=placement)
        self._attempt = attempt = Attempt(
            attempt_id,
            self._request,
            self.record,
            self._merger,
            partial(self._deliver, take),
            self._on_progress,
        )
        self._refused = set()
        self._members = self._attach(attempt, found)
        log.debug(
            "attempt %s goes to %s, then to %s", attempt_id, placement.first, placement.destination
        )
        try:
            if placement.first != self._at:
                await self._fetch_prefix(attempt_id, self._members[0], found.hits)
            self._submit(attempt_id, self._members)
            await attempt.wait_ended()
            if attempt.finished and not self.record.complete:
                await attempt.wait_reported(self._config.report_wait_s)
        finally:
            self._leave(attempt)

    def _leave(self, attempt: Attempt) -> None:
        """Detach it from its workers; unless it is finished they cancel it."""
        self._attempt = None
        for member in self._members:
            if not attempt.finished:
                member.cancel(attempt.attempt_id)
            member.detach(attempt.attempt_id)
            member.ledger.ended(member.ref, attempt.attempt_id)

    def _deliver(self, take: TakeOutput, output: Output) -> bool:
        self._placer.on_output(tell_queue=self._at is None)
        return take(output)

    def _on_progress(self) -> None:
        if self.record.kept is not None:
            self._try_another_destination()
        if self.record.home is not None:
            self._home_known.set()

    async def _place(self) -> Found:
        """Waits a little when nobody can serve: a worker may be about to join."""
        now = self._clock.now
        if now() >= self._deadline:
            raise too_late(self._request, self.record)
        away_s = min(self._fleet.rejoin_wait_s, self._deadline - now())
        until = now() + max(self._config.join_wait_s, away_s)
        while isinstance(found := self._find_place(), Refusal):
            if found.reason is RefusalReason.TOO_LONG:
                raise InvalidRequest(found.detail, "prompt")
            if now() >= until:
                raise Unavailable(f"request {self._request.request_id}: {found.detail}")
            await self._fleet.wait_changed(until - now())
        return found

    def _find_place(self) -> Found | Refusal:
        if self._at is not None and self.record.attempts == 0:
            member = self._fleet.member(self._at)
            if member is not None and member.state is MemberState.READY:
                return self._placer.place_at(member)
        if self._merger.num_output == 0:
            self._placer.ledger = self._fleet.ledger
        found = self._placer.place(self._avoid)
        nobody = isinstance(found, Refusal) and found.reason is RefusalReason.NO_WORKERS
        if nobody and self._ledger is not self._fleet.ledger:
            text = "no worker is left of the model's revision that began the answer"
            return Refusal(RefusalReason.NO_WORKERS, f"{text}, and no other can go on with it")
        return found

    def _try_another_destination(self) -> None:
        """The first worker kept the sequence: its blocks may still go elsewhere, none recomputed.

        Each destination is asked once in an attempt; when none is left the first worker goes on.
        """
        first, former, attempt = self._members[0], self.record.destination, self._attempt
        if attempt is None or former is None or former in self._refused:
            return
        self._refused.add(former)
        self._ledger.ended(former, attempt.attempt_id)
        avoid = self._avoid | self._refused
        found = self._placer.another_destination(first.ref, avoid)
        member = None if found is None else self._fleet.member(found)
        if member is None:
            return
        member.attach(attempt.attempt_id, attempt.on_event)
        self._members.append(member)
        self._placer.expect(attempt.attempt_id, member.ref, avoid)
        self.record.go_to(member.ref)
        with suppress(SessionClosed):  # this worker is being lost, which it will be told
            move = Move(attempt_id=attempt.attempt_id, destination=_destination(member))
            first.send(move)

    @property
    def _sampling(self) -> SamplingParams:
        """Sampling parameters without what the first token brought already."""
        sampling = self._request.sampling
        if sampling.prompt_logprobs is None or not self._merger.num_output:
            return sampling
        return msgspec.structs.replace(sampling, prompt_logprobs=None)

    @property
    def _ledger(self) -> Ledger:
        """The ledger of the revision that answers; once it has begun, no other may continue."""
        return self._placer.ledger

    def learn(self, num_tokens: int) -> None:
        """The answer is complete with so many tokens: its reader tells, who may know it before the
        workers do."""
        self._placer.answered(num_tokens)

    def _attach(self, attempt: Attempt, found: Found) -> list[Member]:
        """Both ends listen before anything is sent: the second may speak before the first."""
        ends = found.placement.first, found.placement.destination
        refs = [ref for ref in ends if ref is not None]
        members = [member for ref in refs if (member := self._fleet.member(ref)) is not None]
        assert len(members) == len(refs), "the fleet changed without an await"
        for member in members:
            member.attach(attempt.attempt_id, attempt.on_event)
        self._placer.enter(attempt.attempt_id, found, self._avoid)
        return members

    async def _fetch_prefix(self, attempt_id: AttemptId, first: Member, hits: Hits) -> None:
        """Copy a prefix that another worker has cached; prompt log-probabilities need it computed,
        though."""
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

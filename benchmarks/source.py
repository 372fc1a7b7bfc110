"""A source of handoffs that computes nothing: it speaks the protocol, and sends no bytes."""

from __future__ import annotations

import time
from typing import Self

from runtime.session import OpenedSession, open_session
from wire.handoff import Accepted, Commit, Ends, Grant, Offer, Stale
from wire.identity import AttemptId, WorkerRef, draw_incarnation
from wire.messages import Handed, Hello, Message, StepOutputs, Submit
from wire.sampling import SamplingParams

TIMEOUT_S = 10.0
NUM_BLOCKS = 2


class FakeSource:
    """Offers one prompt again and again, which the destination has computed itself before.

    `router` is a session with the same worker, over which the tokens come.
    """

    def __init__(self, ref: WorkerRef, opened: OpenedSession, router: OpenedSession) -> None:
        self._ref = ref
        self._opened = opened
        self._router = router
        self._tokens = tuple(range(1, 1 + NUM_BLOCKS * router.card.layout.block_size))

    @classmethod
    async def open(cls, router: OpenedSession) -> Self:
        """It has no memory, thus no process that the worker would have to wait for."""
        ref = WorkerRef("bench", draw_incarnation())
        hello = Hello(caller_id="bench", worker=ref)
        opened = await open_session(router.card.address, hello, timeout_s=TIMEOUT_S)
        return cls(ref, opened, router)

    async def fill_cache(self) -> None:
        """The worker serves the prompt, and keeps its blocks."""
        attempt_id = AttemptId("bench-first")
        sampling = SamplingParams(max_tokens=1)
        submit = Submit(
            attempt_id=attempt_id,
            tokens=self._tokens,
            num_prompt=len(self._tokens),
            sampling=sampling,
        )
        self._router.session.send(submit)
        await self._finished(attempt_id)

    async def hand_over(self, number: int, *, prefix_only: bool = False) -> tuple[float, float]:
        """Seconds until the grant, and from there to the verdict, of an attempt without blocks."""
        offer = self._offer(number, prefix_only)
        started = time.perf_counter()
        self._opened.session.send(offer)
        grant = await self._opened.session.receive()
        granted = time.perf_counter()
        assert isinstance(grant, Grant), grant
        assert not grant.blocks
        self._opened.session.send(self._commit(offer.ends, grant.epoch, prefix_only))
        accepted = await self._opened.session.receive()
        ended = time.perf_counter()
        assert isinstance(accepted, Accepted), accepted
        await (self._handed() if prefix_only else self._finished(offer.attempt_id))
        return granted - started, ended - granted

    async def one_turn(self, number: int) -> float:
        """Seconds until the worker's step loop has answered a message that means nothing."""
        ends = self._ends(AttemptId(f"bench-unknown-{number}"))
        started = time.perf_counter()
        self._opened.session.send(self._commit(ends, 0))
        answer = await self._opened.session.receive()
        ended = time.perf_counter()
        assert isinstance(answer, Stale), answer
        return ended - started

    def close(self) -> None:
        self._opened.session.close()

    def _offer(self, number: int, prefix_only: bool) -> Offer:
        card = self._opened.card
        return Offer(
            **self._ends(AttemptId(f"bench-{'prefix' if prefix_only else 'sequence'}-{number}")),
            tokens=self._tokens,
            max_tokens=len(self._tokens) + 2,
            layout=card.layout,
            content=card.content,
            router_id="bench",
            deadline_s=TIMEOUT_S,
            prefix_only=prefix_only,
        )

    def _commit(self, ends: Ends, epoch: int, prefix_only: bool = False) -> Commit:
        return Commit(
            **ends,
            epoch=epoch,
            new_tokens=() if prefix_only else (1,),
            num_prompt=len(self._tokens),
            sampling=SamplingParams(max_tokens=2),
            checksum=0,
        )

    def _ends(self, attempt_id: AttemptId) -> Ends:
        return {"attempt_id": attempt_id, "source": self._ref, "destination": self._opened.card.ref}

    async def _finished(self, attempt_id: AttemptId) -> None:
        """The sequence has ended, so that the next attempt meets an idle worker."""
        while not _ends_leg(await self._router.session.receive(), attempt_id):
            pass

    async def _handed(self) -> None:
        while not isinstance(await self._router.session.receive(), Handed):
            pass


def _ends_leg(message: Message, attempt_id: AttemptId) -> bool:
    if not isinstance(message, StepOutputs):
        return False
    return any(
        output.attempt_id == attempt_id and output.finish is not None for output in message.outputs
    )

"""The destination's half of a handoff, a pure state machine: values and times in, effects out."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from kv_transfer.handoff.effects import Adopt, AttemptLost, CutLink, Effect, FreeBlocks, Send
from kv_transfer.layout.checksum import ComputeChecksum
from wire.handoff import (
    Abort,
    Accepted,
    Commit,
    Grant,
    Handoff,
    Offer,
    Quiesced,
    Rejected,
)
from wire.layout import KvLayout


class DestinationState(enum.Enum):
    GRANTED = "granted"  # the source may write to the granted blocks
    ACCEPTED = "accepted"  # the sequence is ours
    FENCING = "fencing"  # over, but the source may still be writing
    CLOSED = "closed"


class DestinationHandoff:
    """One attempt, from the grant on. Every method returns effects, in order, and is idempotent.

    `held` are cached blocks with the start of the sequence, `granted` those that the source will
    fill. The machine owns a reference to all of them until `Adopt` or `FreeBlocks` passes it on.
    """

    def __init__(
        self,
        offer: Offer,
        held: Sequence[int],
        granted: Sequence[int],
        *,
        epoch: int,
        layout: KvLayout,
        checksum: ComputeChecksum,
        deadline: float,
        fence_deadline_s: float,
    ) -> None:
        self.offer = offer
        self.epoch = epoch
        self.state = DestinationState.GRANTED
        self._held = tuple(held)
        self._granted = tuple(granted)
        self._layout = layout
        self._checksum = checksum
        self._deadline: float | None = deadline
        self._fence_deadline_s = fence_deadline_s

    def grant(self) -> list[Effect]:
        """Answer the offer, or a repetition of it."""
        if self.state is not DestinationState.GRANTED:
            return []
        grant = Grant(
            **self.offer.ends,
            first_missing_block=len(self._held),
            blocks=self._granted,
            epoch=self.epoch,
            layout=self._layout,
        )
        return [Send(grant)]

    def receive(self, message: Handoff, now: float) -> list[Effect]:
        match message:
            case Offer():
                return self.grant()
            case Commit() if message.epoch != self.epoch:
                return []  # of an earlier grant
            case Commit() if self.state is DestinationState.GRANTED:
                return self._verify(message)
            case Commit() if self.state is DestinationState.ACCEPTED:
                return [self._accepted()]
            case Abort() if self.state is DestinationState.GRANTED:
                return self._fence(f"aborted by the source: {message.cause}", now)
            case Quiesced() if message.epoch in (None, self.epoch):
                return self._quiesced()
        return []

    def abort(self, cause: str, now: float) -> list[Effect]:
        """End an attempt that is not wanted any more; its blocks wait until the source is quiet."""
        if self.state is not DestinationState.GRANTED:
            return []
        message = Abort(**self.offer.ends, cause=cause, by_source=False)
        return [Send(message), *self._fence(cause, now)]

    def source_lost(self, cause: str) -> list[Effect]:
        """The session with the source ended. Writes may still arrive: see `source_fenced`."""
        if self.state is DestinationState.FENCING:
            self._deadline = None
        return self._fence(cause) if self.state is DestinationState.GRANTED else []

    def source_fenced(self) -> list[Effect]:
        """The link of a lost source is torn down at this end: no write lands any more."""
        return self._quiesced() if self.state is DestinationState.FENCING else []

    def tick(self, now: float) -> list[Effect]:
        if self._deadline is None or now < self._deadline:
            return []
        if self.state is DestinationState.GRANTED:
            return self.abort(f"no commit from {self.offer.source} in time", now)
        if self.state is DestinationState.FENCING:
            self._deadline = None
            seconds = self._fence_deadline_s
            return [CutLink(f"{self.offer.source} has not been quiet for {seconds} s")]
        return []

    def _verify(self, commit: Commit) -> list[Effect]:
        problem = self._problem(commit)
        if problem is not None:
            rejected = Rejected(**self.offer.ends, epoch=self.epoch, reason=problem)
            # A commit means that every write has completed: the source is quiet.
            self.state = DestinationState.CLOSED
            return [Send(rejected), AttemptLost(problem), FreeBlocks(self._held + self._granted)]
        self.state = DestinationState.ACCEPTED
        blocks = self._held + self._granted
        return [Adopt(commit, blocks), self._accepted()]

    def _problem(self, commit: Commit) -> str | None:
        num_tokens = self.offer.num_tokens + len(commit.new_tokens)
        if len(commit.new_tokens) != (0 if self.offer.prefix_only else 1):
            return f"{num_tokens} tokens for a cache of {self.offer.num_tokens}"
        if not 0 < commit.num_prompt <= self.offer.num_tokens:
            return f"num_prompt is {commit.num_prompt} of {num_tokens} tokens"
        if self._checksum(self._granted, len(self._held)) != commit.checksum:
            return "checksum: the blocks do not hold what the source sent"
        return None

    def _accepted(self) -> Send:
        return Send(Accepted(**self.offer.ends, epoch=self.epoch))

    def _fence(self, cause: str, now: float | None = None) -> list[Effect]:
        """Keep the blocks until the source is quiet.

        A source that is not quiet by the deadline costs the link; without `now` it is lost already.
        """
        self.state = DestinationState.FENCING
        self._deadline = None if now is None else now + self._fence_deadline_s
        return [AttemptLost(cause)]

    def _quiesced(self) -> list[Effect]:
        if self.state is DestinationState.GRANTED:  # the source is over before it committed
            self.state = DestinationState.CLOSED
            return [AttemptLost("the source is over"), FreeBlocks(self._held + self._granted)]
        if self.state is DestinationState.FENCING:
            self.state = DestinationState.CLOSED
            return [FreeBlocks(self._held + self._granted)]
        return []

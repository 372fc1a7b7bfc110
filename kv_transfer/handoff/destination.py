"""The destination's half of a handoff, a pure state machine: values and times in, effects out."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from kv_transfer.handoff.effects import (
    Adopt,
    AttemptLost,
    CutLink,
    Effect,
    FreeBlocks,
    Send,
    Verify,
)
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
    VERIFYING = "verifying"  # committed: all has been written, and we read it
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
        deadline: float,
        fence_deadline_s: float,
    ) -> None:
        self.offer = offer
        self.epoch = epoch
        self.state = DestinationState.GRANTED
        self._held = tuple(held)
        self._granted = tuple(granted)
        self._layout = layout
        self._commit: Commit | None = None
        self._lost: str | None = None
        """Why an attempt ends whose blocks are still being read."""
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
            case Abort() if self.state is DestinationState.VERIFYING:
                return self._lose(f"aborted by the source: {message.cause}")
            case Quiesced() if message.epoch in (None, self.epoch):
                return self._quiesced()
        return []

    def abort(self, cause: str, now: float) -> list[Effect]:
        """End an attempt that is not wanted any more; its blocks wait until the source is quiet."""
        message = Abort(**self.offer.ends, cause=cause, by_source=False)
        if self.state is DestinationState.GRANTED:
            return [Send(message), *self._fence(cause, now)]
        if self.state is DestinationState.VERIFYING and self._lost is None:
            return [Send(message), *self._lose(cause)]
        return []

    def source_lost(self, cause: str) -> list[Effect]:
        """The session with the source ended. Writes may still arrive: see `source_fenced`.

        None does after a commit, and what it brought is verified and run, as the source expects.
        """
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

    def checksummed(self, checksum: int) -> list[Effect]:
        """The checksum that `Verify` asked for is known: nothing reads the blocks any more."""
        assert self.state is DestinationState.VERIFYING
        commit, self._commit = self._commit, None
        assert commit is not None
        if self._lost is not None:
            return self._close()
        if checksum != commit.checksum:
            return self._reject("checksum: the blocks do not hold what the source sent")
        self.state = DestinationState.ACCEPTED
        return [Adopt(commit, self._held + self._granted), self._accepted()]

    def _verify(self, commit: Commit) -> list[Effect]:
        problem = self._problem(commit)
        if problem is not None:
            return self._reject(problem)
        self.state, self._commit = DestinationState.VERIFYING, commit
        self._deadline = None
        return [Verify(self._granted, len(self._held))]

    def _reject(self, problem: str) -> list[Effect]:
        """A commit means that every write has completed: the source is quiet."""
        rejected = Rejected(**self.offer.ends, epoch=self.epoch, reason=problem)
        return [Send(rejected), AttemptLost(problem), *self._close()]

    def _lose(self, cause: str) -> list[Effect]:
        """End an attempt whose blocks are being read; they are free when that is over."""
        if self._lost is not None:
            return []
        self._lost = cause
        return [AttemptLost(cause)]

    def _problem(self, commit: Commit) -> str | None:
        num_tokens = self.offer.num_tokens + len(commit.new_tokens)
        if len(commit.new_tokens) != (0 if self.offer.prefix_only else 1):
            return f"{num_tokens} tokens for a cache of {self.offer.num_tokens}"
        if not 0 < commit.num_prompt <= self.offer.num_tokens:
            return f"num_prompt is {commit.num_prompt} of {num_tokens} tokens"
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
            return [AttemptLost("the source is over"), *self._close()]
        if self.state is DestinationState.VERIFYING:
            return self._lose("the source is over")
        return self._close() if self.state is DestinationState.FENCING else []

    def _close(self) -> list[Effect]:
        self.state = DestinationState.CLOSED
        return [FreeBlocks(self._held + self._granted)]

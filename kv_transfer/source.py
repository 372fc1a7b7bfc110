"""The source's half of a handoff, a pure state machine: values and times in, effects out."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from kv_transfer.checksum import Digest
from kv_transfer.effects import (
    Effect,
    HandedOver,
    NotHandedOver,
    Send,
    SourceClosed,
    Write,
)
from wire.handoff import (
    Abort,
    Accepted,
    Commit,
    Grant,
    Handoff,
    Moved,
    Offer,
    Quiesced,
    Refuse,
    Rejected,
)
from wire.layout import KvLayout
from wire.sampling import SamplingParams, TokenLogprob


class SourceState(enum.Enum):
    OFFERED = "offered"  # waits for a grant while prefill computes
    WRITING = "writing"  # has a grant; blocks leave as they are computed
    COMMITTED = "committed"  # all is written and announced; waits for the verdict
    ENDING = "ending"  # over, but writes are outstanding
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Final:
    """What prefill ended with: all tokens, the one it drew last among them."""

    tokens: tuple[int, ...]
    num_prompt: int
    sampling: SamplingParams
    logprob: TokenLogprob | None = None


@dataclass(slots=True)
class Tally:
    """What a handoff moved so far; times are the host's clock, in seconds."""

    num_blocks: int = 0
    skipped_blocks: int = 0
    transfer_s: float = 0.0
    hidden_s: float = 0.0
    prefilled_at: float | None = None

    def add_write(self, started: float, ended: float) -> None:
        self.transfer_s += ended - started
        hidden_until = ended if self.prefilled_at is None else min(ended, self.prefilled_at)
        self.hidden_s += max(0.0, hidden_until - started)

    def moved(self, block_bytes: int, now: float) -> Moved:
        return Moved(
            num_blocks=self.num_blocks,
            skipped_blocks=self.skipped_blocks,
            num_bytes=self.num_blocks * block_bytes,
            transfer_s=self.transfer_s,
            hidden_s=self.hidden_s,
            exposed_s=0.0 if self.prefilled_at is None else now - self.prefilled_at,
        )


class SourceHandoff:
    """One leg. Every method returns the effects to carry out, in order, and is idempotent.

    The host calls `computed` after each prefill chunk and `finish` when the first token is drawn;
    messages, write completions and the passing of time may come in any order between.
    """

    def __init__(
        self, offer: Offer, layout: KvLayout, digest: Digest, *, transfer_deadline_s: float
    ) -> None:
        self.offer = offer
        self.state = SourceState.OFFERED
        self.tally = Tally()
        self._layout = layout
        self._digest = digest
        self._transfer_deadline_s = transfer_deadline_s
        self._deadline: float | None = None
        self._grant: Grant | None = None
        self._final: Final | None = None
        self._blocks: tuple[int, ...] = ()
        self._num_ready = 0  # leading blocks whose content is final
        self._num_posted = 0  # leading blocks that the destination has or that are posted
        self._outstanding: dict[int, int] = {}
        self._next_write = 0
        self._ending: tuple[Effect, ...] = ()

    def start(self, now: float) -> list[Effect]:
        self._deadline = now + self.offer.deadline_s
        return [Send(self.offer)]

    def computed(self, blocks: Sequence[int], num_tokens: int) -> list[Effect]:
        """The cache of the first `num_tokens` tokens is in `blocks`; full blocks may leave."""
        self._blocks = tuple(blocks)
        whole = num_tokens >= self.offer.num_tokens
        self._num_ready = self._num_blocks if whole else num_tokens // self._layout.block_size
        return self._post()

    def finish(self, final: Final, now: float) -> list[Effect]:
        """Prefill is over and the first token drawn: commit as soon as the last write is done."""
        self.tally.prefilled_at = now
        self._deadline = now + self._transfer_deadline_s
        self._final = final
        return self._try_commit(now)

    def receive(self, message: Handoff, now: float) -> list[Effect]:
        match message:
            case Grant() if self.state is SourceState.OFFERED:
                return self._granted(message, now)
            case Grant() if self._grant is None:  # came after our end: nothing was written
                return [self._quiesced(message.epoch)]
            case Refuse() if self.state is SourceState.OFFERED:
                cause = f"{message.reason.value}: {message.detail}"
                return self._end(NotHandedOver(cause), quiesce=False)
            case Accepted() if self.state is SourceState.COMMITTED:
                return self._end(HandedOver(), quiesce=False)
            case Rejected() if self.state is SourceState.COMMITTED:
                return self._end(NotHandedOver(f"rejected: {message.reason}"), quiesce=False)
            case Abort() if self._live:
                return self._end(NotHandedOver(f"aborted: {message.cause}"), quiesce=True)
        return []

    def wrote(self, write_id: int, started: float, ended: float) -> list[Effect]:
        """A write completed; it was under way between those two times."""
        if self._outstanding.pop(write_id, None) is None:
            return []
        self.tally.add_write(started, ended)
        if self.state is SourceState.ENDING:
            return self._try_close()
        return self._try_commit(ended)

    def write_failed(self, write_id: int, cause: str) -> list[Effect]:
        """A write ended in error, and the transport knows that nothing of it is outstanding."""
        if self._outstanding.pop(write_id, None) is None:
            return []
        if self._live:
            return self._end(NotHandedOver(f"write failed: {cause}"), quiesce=True, abort=True)
        return self._try_close()

    def abort(self, cause: str) -> list[Effect]:
        """The sequence is not wanted any more, or not there."""
        if not self._live:
            return []
        return self._end(NotHandedOver(f"aborted: {cause}"), quiesce=True, abort=True)

    def peer_lost(self, cause: str) -> list[Effect]:
        """The control connection to the destination broke."""
        if not self._live:
            return []
        ambiguous = self.state is SourceState.COMMITTED
        return self._end(NotHandedOver(cause, ambiguous), quiesce=True, abort=True)

    def tick(self, now: float) -> list[Effect]:
        if not self._live or self._deadline is None or now < self._deadline:
            return []
        if self.state is SourceState.OFFERED and self._final is None:
            return []  # prefill still runs: the grant is late, but nobody waits for it yet
        waited_for = "verdict" if self.state is SourceState.COMMITTED else "grant or writes"
        cause = f"no {waited_for} from {self.offer.destination} in time"
        ambiguous = self.state is SourceState.COMMITTED
        return self._end(NotHandedOver(cause, ambiguous), quiesce=True, abort=True)

    @property
    def _live(self) -> bool:
        return self.state not in (SourceState.ENDING, SourceState.CLOSED)

    @property
    def _num_blocks(self) -> int:
        return self._layout.num_blocks(self.offer.num_tokens)

    def _granted(self, grant: Grant, now: float) -> list[Effect]:
        if len(grant.pages) != self._num_blocks - grant.first_missing_block:
            cause = f"granted {len(grant.pages)} pages from block {grant.first_missing_block} on"
            self._grant = grant
            return self._end(NotHandedOver(cause), quiesce=True, abort=True)
        self._grant = grant
        self.state = SourceState.WRITING
        self._num_posted = grant.first_missing_block
        self.tally.skipped_blocks = grant.first_missing_block
        return self._post() or self._try_commit(now)

    def _post(self) -> list[Effect]:
        """Post the blocks that are ready and not yet posted, as one write."""
        if self._grant is None or self.state is not SourceState.WRITING:
            return []
        first, end = self._num_posted, self._num_ready
        if first >= end:
            return []
        offset = self._grant.first_missing_block
        pages = self._grant.pages[first - offset : end - offset]
        write = Write(self._next_write, self._blocks[first:end], pages)
        self._outstanding[write.write_id] = end - first
        self._next_write += 1
        self._num_posted = end
        self.tally.num_blocks += end - first
        return [write]

    def _try_commit(self, now: float) -> list[Effect]:
        done = self._num_posted == self._num_blocks and not self._outstanding
        if self.state is not SourceState.WRITING or self._final is None or not done:
            return []
        assert self._grant is not None
        self.state = SourceState.COMMITTED
        final = self._final
        commit = Commit(
            **self.offer.ends,
            epoch=self._grant.epoch,
            tokens=final.tokens,
            num_prompt=final.num_prompt,
            sampling=final.sampling,
            logprob=final.logprob,
            moved=self.tally.moved(self._layout.block_bytes, now),
            checksum=self._digest(self._blocks[self._grant.first_missing_block : self._num_blocks]),
        )
        return [Send(commit)]

    def _end(self, outcome: Effect, *, quiesce: bool, abort: bool = False) -> list[Effect]:
        """Tell the outcome now; close, and say that we are quiet, once no write is outstanding."""
        self.state = SourceState.ENDING
        epoch = None if self._grant is None else self._grant.epoch
        self._ending = (self._quiesced(epoch),) if quiesce else ()
        effects: list[Effect] = [self._abort_message(outcome)] if abort else []
        return [*effects, outcome, *self._try_close()]

    def _try_close(self) -> list[Effect]:
        if self.state is not SourceState.ENDING or self._outstanding:
            return []
        self.state = SourceState.CLOSED
        return [*self._ending, SourceClosed()]

    def _quiesced(self, epoch: int | None) -> Send:
        return Send(Quiesced(**self.offer.ends, epoch=epoch))

    def _abort_message(self, outcome: Effect) -> Send:
        cause = outcome.cause if isinstance(outcome, NotHandedOver) else "over"
        return Send(Abort(**self.offer.ends, cause=cause, by_source=True))

"""The source's half of a handoff, a pure state machine: values and times in, effects out."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from kv_transfer.handoff.effects import (
    CutLink,
    Effect,
    HandedOver,
    NotHandedOver,
    Send,
    SourceClosed,
    Write,
)
from kv_transfer.layout.block_write import BlockWrite
from kv_transfer.layout.checksum import MASK
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
    Stale,
)
from wire.sampling import SamplingParams, TokenLogprob


class SourceState(enum.Enum):
    OFFERED = "offered"  # waits for a grant while prefill computes
    WRITING = "writing"  # has a grant; blocks leave as they are computed
    COMMITTED = "committed"  # all is written and announced; waits for the verdict
    ENDING = "ending"  # over, but writes are outstanding
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Final:
    """The end of prefill; `new_tokens` follow the tokens whose cache is handed over."""

    new_tokens: tuple[int, ...]
    num_prompt: int
    sampling: SamplingParams
    logprob: TokenLogprob | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(slots=True)
class HandoffTotals:
    """The totals of a handoff so far; times are seconds of the host's clock."""

    num_blocks: int = 0
    skipped_blocks: int = 0
    block_bytes: int = 0
    transfer_s: float = 0.0
    hidden_s: float = 0.0
    prefilled_at: float | None = None

    def add_write(self, started: float, ended: float) -> None:
        self.transfer_s += ended - started
        hidden_until = ended if self.prefilled_at is None else min(ended, self.prefilled_at)
        self.hidden_s += max(0.0, hidden_until - started)

    def moved(self, now: float) -> Moved:
        return Moved(
            num_blocks=self.num_blocks,
            skipped_blocks=self.skipped_blocks,
            num_bytes=self.num_blocks * self.block_bytes,
            transfer_s=self.transfer_s,
            hidden_s=self.hidden_s,
            exposed_s=0.0 if self.prefilled_at is None else now - self.prefilled_at,
        )


class SourceHandoff:
    """One attempt. Every method returns the effects to carry out, in order, and is idempotent.

    The host calls `computed` after each prefill chunk and `finish` when the first token is sampled;
    messages, ends of writes and ticks may come in any order in between. Blocks are this worker's,
    remote blocks are the destination's; their sizes may differ, so that both are counted in tokens.
    """

    def __init__(self, offer: Offer, *, transfer_deadline_s: float) -> None:
        self.offer = offer
        self.state = SourceState.OFFERED
        self.tally = HandoffTotals()
        self._transfer_deadline_s = transfer_deadline_s
        self._deadline: float | None = None
        self._grant: Grant | None = None
        self._final: Final | None = None
        self._blocks: tuple[int, ...] = ()
        self._num_computed = 0
        self._num_posted = 0  # leading tokens that the destination has, or that are posted
        self._num_layers_posted = 0  # layers that are posted of all tokens behind those
        self._outstanding: dict[int, int] = {}
        self._next_write = 0
        self._checksum = 0
        self._ending: tuple[Effect, ...] = ()

    def start(self, now: float) -> list[Effect]:
        self._deadline = now + self.offer.deadline_s
        return [Send(self.offer)]

    def computed(self, blocks: Sequence[int], num_tokens: int) -> list[Effect]:
        """The KV cache of the first `num_tokens` tokens is in `blocks`; it may be written."""
        self._blocks = tuple(blocks)
        self._num_computed = min(num_tokens, self.offer.num_tokens)
        return self._post()

    def computed_layers(self, blocks: Sequence[int], num_layers: int) -> list[Effect]:
        """The first `num_layers` layers of all tokens are in the cache; they may be written.

        To be called while the last chunk is computed, before `computed` is called at its end.
        """
        if self.state is not SourceState.WRITING or not self._leaves_by_layers:
            return []
        if num_layers <= self._num_layers_posted or self._num_posted == self.offer.num_tokens:
            return []
        self._blocks = tuple(blocks)
        layers = self._num_layers_posted, num_layers
        self._num_layers_posted = num_layers
        return [self._write(self.offer.num_tokens, layers)]

    def finish(self, final: Final, now: float) -> list[Effect]:
        """Prefill is over and the first token sampled: commit when the last write has ended."""
        self.tally.prefilled_at = now
        self._deadline = now + self._transfer_deadline_s
        self._final = final
        return self._try_commit(now)

    def receive(self, message: Handoff, now: float) -> list[Effect]:
        match message:
            case Grant() if self.state is SourceState.OFFERED:
                return self._granted(message, now)
            case Grant() if self._grant is None:  # it came after our end: nothing was written
                return [self._quiesced(message.epoch)]
            case Refuse() if self.state is SourceState.OFFERED:
                cause = f"{message.reason.value}: {message.detail}"
                return self._end(NotHandedOver(cause), now, quiesce=False)
            case Accepted() if self.state is SourceState.COMMITTED:
                return self._end(HandedOver(), now, quiesce=False)
            case Rejected() if self.state is SourceState.COMMITTED:
                rejected = NotHandedOver(f"rejected: {message.reason}")
                return self._end(rejected, now, quiesce=False)
            case Abort() if self._live:
                return self._end(NotHandedOver(f"aborted: {message.cause}"), now)
            case Stale() if self._live:
                outcome = self._unknown(f"{self.offer.destination} does not know the attempt")
                return self._end(outcome, now)
        return []

    def wrote(self, write_id: int, started: float, ended: float, checksum: int) -> list[Effect]:
        """A write completed; it was under way between those two times.

        `checksum` is that of the remote blocks which it filled, computed from our blocks.
        """
        if self._outstanding.pop(write_id, None) is None:
            return []
        self._checksum = (self._checksum + checksum) & MASK
        self.tally.add_write(started, ended)
        if self.state is SourceState.ENDING:
            return self._try_close()
        return self._try_commit(ended)

    def write_failed(self, write_id: int, cause: str) -> list[Effect]:
        """A write was given up and its link is torn down, so that nothing reads our blocks.

        Bytes that were sent may still arrive. Therefore the source never says that it is quiet; the
        destination tears down its end of the link, too.
        """
        if self._outstanding.pop(write_id, None) is None:
            return []
        self._ending = ()
        if self._live:
            return self._end(NotHandedOver(f"write failed: {cause}"), quiesce=False)
        return self._try_close()

    def abort(self, cause: str, now: float) -> list[Effect]:
        """End the attempt: the sequence is not wanted any more, or does not exist any more."""
        if not self._live:
            return []
        return self._end(NotHandedOver(f"aborted: {cause}"), now, abort=True)

    def peer_lost(self, cause: str) -> list[Effect]:
        """The session with the destination ended; so does its link, and with it all writes."""
        self._ending = ()
        return self._end(self._unknown(cause), quiesce=False) if self._live else []

    def tick(self, now: float) -> list[Effect]:
        if self.state is SourceState.CLOSED or self._deadline is None or now < self._deadline:
            return []
        if self.state is SourceState.ENDING:
            self._deadline = None
            seconds = self._transfer_deadline_s
            return [CutLink(f"writes to {self.offer.destination} have not ended for {seconds} s")]
        if self.state is SourceState.OFFERED and self._final is None:
            return []  # prefill still runs: the grant is late, but nobody waits for it yet
        cause = f"no {self._awaited} from {self.offer.destination} in time"
        return self._end(self._unknown(cause), now, abort=True)

    @property
    def _live(self) -> bool:
        return self.state not in (SourceState.ENDING, SourceState.CLOSED)

    @property
    def _awaited(self) -> str:
        if self.state is SourceState.COMMITTED:
            return "verdict"
        return "grant" if self._grant is None else "end of the writes"

    def _unknown(self, cause: str) -> NotHandedOver:
        """The end of an attempt without a verdict: once committed, it may have been accepted."""
        return NotHandedOver(cause, ambiguous=self.state is SourceState.COMMITTED)

    def _granted(self, grant: Grant, now: float) -> list[Effect]:
        self._grant = grant
        problem = self._problem(grant)
        if problem is not None:
            return self._end(NotHandedOver(problem), now, abort=True)
        self.state = SourceState.WRITING
        held_tokens = grant.first_missing_block * grant.layout.block_size
        self._num_posted = min(held_tokens, self.offer.num_tokens)
        self.tally.skipped_blocks = grant.first_missing_block
        self.tally.block_bytes = grant.layout.block_bytes
        return self._post() or self._try_commit(now)

    def _problem(self, grant: Grant) -> str | None:
        first, layout = grant.first_missing_block, grant.layout
        if len(grant.blocks) != layout.num_blocks(self.offer.num_tokens) - first:
            return f"granted {len(grant.blocks)} blocks from block {first} on"
        if first * layout.block_size % self.offer.layout.block_size:
            return f"granted from token {first * layout.block_size} on, within a block"
        return None

    def _post(self) -> list[Effect]:
        """Post the tokens that are ready and not yet posted, in one write."""
        if self._grant is None or self.state is not SourceState.WRITING:
            return []
        end = self._num_ready
        if self._num_posted >= end:
            return []
        begun, num_layers = self._num_layers_posted, self.offer.layout.num_layers
        write = self._write(end, (begun, num_layers) if begun else None)
        self._num_posted, self._num_layers_posted = end, 0
        self.tally.num_blocks += len(write.block_write.remote_blocks)
        return [write]

    def _write(self, end: int, layers: tuple[int, int] | None) -> Write:
        """A write of the tokens from the first that is not posted to `end`."""
        assert self._grant is not None
        start, held = self._num_posted, self._grant.first_missing_block
        ours, theirs = self.offer.layout, self._grant.layout
        first, stop = start // theirs.block_size, theirs.num_blocks(end)
        block_write = BlockWrite(
            self._blocks[start // ours.block_size : ours.num_blocks(end)],
            self._grant.blocks[first - held : stop - held],
            num_tokens=end - start,
            first_remote_block=first,
            layers=layers,
        )
        write = Write(self._next_write, block_write)
        self._next_write += 1
        self._outstanding[write.write_id] = len(block_write.remote_blocks)
        return write

    @property
    def _leaves_by_layers(self) -> bool:
        """Whether layers may be written one by one: layouts are equal, blocks have no scales."""
        assert self._grant is not None
        return self._grant.layout == self.offer.layout and not self.offer.layout.scale_bytes

    @property
    def _num_ready(self) -> int:
        """Leading tokens that may be written: all, or as many as fill blocks on both sides."""
        assert self._grant is not None
        if self._num_computed == self.offer.num_tokens:
            return self._num_computed
        unit = max(self.offer.layout.block_size, self._grant.layout.block_size)
        return self._num_computed // unit * unit

    def _try_commit(self, now: float) -> list[Effect]:
        done = self._num_posted == self.offer.num_tokens and not self._outstanding
        if self.state is not SourceState.WRITING or self._final is None or not done:
            return []
        assert self._grant is not None
        self.state = SourceState.COMMITTED
        final = self._final
        commit = Commit(
            **self.offer.ends,
            epoch=self._grant.epoch,
            new_tokens=final.new_tokens,
            num_prompt=final.num_prompt,
            sampling=final.sampling,
            logprob=final.logprob,
            prompt_logprobs=final.prompt_logprobs,
            moved=self.tally.moved(now),
            checksum=self._checksum,
        )
        return [Send(commit)]

    def _end(
        self,
        outcome: Effect,
        now: float | None = None,
        *,
        quiesce: bool = True,
        abort: bool = False,
    ) -> list[Effect]:
        """Report the outcome now; close, and say that we are quiet, once no write is outstanding.

        Writes that outlive the deadline cost the link. Without `now` it is lost already.
        """
        self.state = SourceState.ENDING
        self._deadline = None if now is None else now + self._transfer_deadline_s
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

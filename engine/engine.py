"""The engine: sequences in, tokens out, one step at a time, owned by one thread."""

from __future__ import annotations

import msgspec

from engine.blocks import BlockPool
from engine.errors import SequenceError
from engine.fair_queue import FairQueue
from engine.policy import Policy, Room, Share
from engine.runner import OnLayer, Runner, Sampled, Slice
from engine.sequence import Sequence, Status
from wire.identity import Leg
from wire.messages import FinishReason


class Progress(msgspec.Struct, frozen=True, gc=False):
    """What one step did for one sequence. A finished one has given its blocks back, if unpinned."""

    sequence: Sequence
    start: int
    end: int
    sampled: Sampled | None
    finish: FinishReason | None = None
    stop_token: int | None = None


class Engine:
    """Continuous batching over a paged KV cache with a prefix cache.

    A sequence waits, runs, and finishes; it may be *held* (blocks kept, no steps) while it is
    handed to another worker, and *adopted* (blocks and computed tokens given) when it comes from
    one. When blocks run out, the sequence that was admitted last goes back to the queue and is
    recomputed later: its tokens stay, so the client sees nothing of it.
    """

    def __init__(self, runner: Runner, pool: BlockPool, policy: Policy) -> None:
        self.runner = runner
        self.pool = pool
        self.policy = policy
        self.waiting = FairQueue()
        self.running: list[Sequence] = []
        self.held: dict[Leg, Sequence] = {}
        self.num_preemptions = 0
        self.block_size = runner.layout.block_size

    @property
    def max_sequence_tokens(self) -> int:
        """The longest sequence that can run here when it has the pool to itself."""
        return min(self.runner.max_model_len, self.pool.num_blocks * self.block_size)

    @property
    def busy(self) -> bool:
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises SequenceError when it could never run."""
        if not 0 < sequence.num_prompt <= len(sequence.tokens):
            raise SequenceError(
                f"{sequence.leg}: num_prompt is {sequence.num_prompt} of {len(sequence.tokens)} "
                "tokens, must be at least 1"
            )
        longest = sequence.num_prompt + sequence.sampling.max_tokens
        if longest > self.max_sequence_tokens:
            raise SequenceError(
                f"{sequence.leg}: {sequence.num_prompt} prompt tokens and "
                f"{sequence.sampling.max_tokens} new ones are more than the "
                f"{self.max_sequence_tokens} that this worker can hold"
            )
        if max(sequence.tokens) >= self.runner.vocab_size or min(sequence.tokens) < 0:
            raise SequenceError(
                f"{sequence.leg}: its token ids go from {min(sequence.tokens)} to "
                f"{max(sequence.tokens)}, the model's from 0 to {self.runner.vocab_size - 1}"
            )
        self.waiting.add(sequence)

    def adopt(self, sequence: Sequence) -> None:
        """Continue a sequence whose KV cache is already in `sequence.blocks`."""
        sequence.move(Status.RUNNING)
        self.running.append(sequence)
        self._publish(sequence)

    def try_hold_cached(self, sequence: Sequence) -> bool:
        """Shorten a new sequence to the full blocks that are cached, and hold those.

        False when there is none.
        """
        blocks = self.pool.acquire_prefix(sequence.update_hashes(self.block_size))
        if not blocks:
            return False
        self.pool.note_hits(blocks)
        sequence.shorten(len(blocks), self.block_size)
        sequence.blocks = blocks
        sequence.num_computed = len(sequence.tokens)
        self.adopt(sequence)
        self.hold(sequence)
        return True

    def hold(self, sequence: Sequence) -> None:
        """Take a running sequence out of the steps; its blocks stay."""
        sequence.move(Status.HELD)
        self.running.remove(sequence)
        self.held[sequence.leg] = sequence

    def resume(self, sequence: Sequence) -> None:
        """A held sequence takes part in the steps again."""
        sequence.move(Status.RUNNING)
        del self.held[sequence.leg]
        self.running.append(sequence)

    def drop(self, sequence: Sequence) -> None:
        """End a sequence in whatever state; its blocks go back, and stay as prefix cache."""
        match sequence.status:
            case Status.WAITING:
                self.waiting.remove(sequence)
            case Status.RUNNING:
                self.running.remove(sequence)
            case Status.HELD:
                del self.held[sequence.leg]
            case Status.FINISHED:
                return
        self._finish(sequence)

    def step(self) -> list[Progress]:
        """One batch. Empty when nothing can run: no work, or no room until something ends."""
        self.admit()
        return self.run(self.schedule())

    def admit(self) -> list[Sequence]:
        """Queue to running: reuse the cached prefix, and take all blocks of the known tokens."""
        started: list[Sequence] = []
        while (sequence := self.waiting.first()) is not None:
            if not self._try_start(sequence, len(self.running) + len(started)):
                break
            started.append(sequence)
        self.running += started
        return started

    def schedule(self) -> list[Slice]:
        """What the policy wants computed next, with blocks to hold it."""
        slices: list[Slice] = []
        for share in self.policy.plan(self.running):
            sequence = share.sequence
            if sequence.status is Status.RUNNING and self._try_grow(share, slices):
                slices.append(Slice(sequence, sequence.num_computed, share.count))
        return slices

    def run(self, slices: list[Slice], on_layer: OnLayer | None = None) -> list[Progress]:
        """Compute the slices as one batch, and note how far each sequence has come."""
        sampled = self.runner.run(slices, on_layer) if slices else []
        return [self._advance(*pair) for pair in zip(slices, sampled, strict=True)]

    def _try_start(self, sequence: Sequence, num_running: int) -> bool:
        hashes = sequence.update_hashes(self.block_size)
        reusable = hashes[: (len(sequence.tokens) - 1) // self.block_size]
        num_blocks = self.runner.layout.num_blocks(len(sequence.tokens))
        prefix = self.pool.acquire_prefix(reusable)
        room = Room(self.pool.num_free, num_running)
        new = None
        if self.policy.admits(room, num_blocks - len(prefix)):
            new = self.pool.try_allocate(num_blocks - len(prefix))
        if new is None:
            self.pool.release(prefix)
            return False
        self.pool.note_hits(prefix)
        sequence.blocks = prefix + new
        sequence.num_computed = len(prefix) * self.block_size
        if sequence.num_output == 0:
            sequence.num_cached = sequence.num_computed
        self.waiting.remove(sequence)
        if not sequence.preempted:
            self.waiting.charge(sequence.tenant, sequence.num_uncomputed)
        sequence.preempted = False
        sequence.move(Status.RUNNING)
        return True

    def _try_grow(self, share: Share, slices: list[Slice]) -> bool:
        """Make the blocks cover the share; others, or at last the sequence itself, give way."""
        sequence = share.sequence
        end = sequence.num_computed + share.count
        if end <= len(sequence.blocks) * self.block_size:
            return True
        missing = self.runner.layout.num_blocks(end) - len(sequence.blocks)
        while (new := self.pool.try_allocate(missing)) is None:
            victim = self._victim(sequence, slices)
            if victim is None:
                return False
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.blocks += new
        return True

    def _victim(self, wanting: Sequence, slices: list[Slice]) -> Sequence | None:
        """The one admitted last, of the least urgent, that no transfer reads and no slice needs."""
        scheduled = {s.sequence.leg for s in slices}
        free = (s for s in reversed(self.running) if not s.pinned and s.leg not in scheduled)
        return max(free, key=lambda sequence: sequence.priority, default=None)

    def _preempt(self, sequence: Sequence) -> None:
        self.num_preemptions += 1
        sequence.move(Status.WAITING)
        self.running.remove(sequence)
        self.waiting.put_back(sequence)
        self._release(sequence)

    def _advance(self, piece: Slice, sampled: Sampled | None) -> Progress:
        sequence, end = piece.sequence, piece.start + piece.count
        sequence.num_computed = end
        finish = stop_token = None
        if sampled is not None:
            sequence.tokens.append(sampled.token)
            finish, stop_token = sequence.ending(self.runner.eos_token_ids)
        self._publish(sequence)
        if finish is not None:
            self._end(sequence)
        return Progress(sequence, piece.start, end, sampled, finish, stop_token)

    def _publish(self, sequence: Sequence) -> None:
        num_full = sequence.num_computed // self.block_size
        if num_full <= sequence.num_published:
            return
        hashes = sequence.update_hashes(self.block_size)
        for index in range(sequence.num_published, num_full):
            self.pool.publish(sequence.blocks[index], hashes[index])
        sequence.num_published = num_full

    def _end(self, sequence: Sequence) -> None:
        """A finished sequence that a transfer still reads is held until its owner drops it."""
        if sequence.pinned:
            self.hold(sequence)
        else:
            self.drop(sequence)

    def _finish(self, sequence: Sequence) -> None:
        sequence.move(Status.FINISHED)
        self.waiting.charge(sequence.tenant, sequence.num_output)
        self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.num_computed = 0
        sequence.num_published = 0

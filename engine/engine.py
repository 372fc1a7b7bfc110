"""The engine: sequences in, tokens out, one step at a time, owned by one thread."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from itertools import chain

import msgspec

from engine.cache.block_allocator import BlockAllocator
from engine.cache.block_pool import BlockPool
from engine.cache.host_tier import HostTier
from engine.cache.kv_memory import KvMemory
from engine.cache.reservation import OfferedSequence, Reservation
from engine.errors import SequenceError
from engine.grammar.grammars import Grammars
from engine.grammar.sequences import GrammarSequences
from engine.runner import Draws, OnLayer, Outcome, Runner, Scored, Slice, accepted
from engine.schedule.policy import Policy
from engine.schedule.tenant_queue import TenantQueue
from engine.sequence import Sequence, Status
from kv_transfer.hashing import block_hashes
from wire.identity import AttemptId
from wire.messages import FinishReason


class SequenceProgress(msgspec.Struct, frozen=True, gc=False):
    """What one step did for one sequence: its KV cache goes to `end` now, and `sampled` are its new
    tokens. A finished one has given its blocks back, if unpinned."""

    sequence: Sequence
    start: int
    end: int
    sampled: Draws
    finish: FinishReason | None = None
    stop_token: int | None = None


class Engine:
    """Continuous batching over a paged KV cache with a prefix cache.

    A sequence waits, runs, and finishes; it may be *held* (blocks kept, no steps) while it is
    handed to another worker, and *adopted* (blocks and computed tokens given) when it comes from
    one. When blocks run out, the sequence that was admitted last goes back to the queue; its cache
    waits in host memory, or is computed again. Its tokens stay, so the client sees nothing of it.
    """

    def __init__(
        self,
        runner: Runner,
        pool: BlockPool,
        policy: Policy,
        grammars: Grammars | None = None,
        tier: HostTier | None = None,
    ) -> None:
        self.runner = runner
        self.pool = pool
        self.memory = KvMemory(runner, pool, tier)
        self.policy = policy
        self.waiting = TenantQueue()
        self.running: list[Sequence] = []
        self.held: dict[AttemptId, Sequence] = {}
        self._growth = BlockAllocator(self.running, self.waiting, self.memory, runner.layout)
        self.followers = GrammarSequences(grammars)
        self.block_size = runner.layout.block_size
        self.landed: list[Slice] = []
        """What the step computed whose end was told last; empty when none ended then."""

    @property
    def max_sequence_tokens(self) -> int:
        """The longest sequence that can run here when it has the pool to itself."""
        return min(self.runner.max_model_len, self.pool.num_blocks * self.block_size)

    @property
    def num_preemptions(self) -> int:
        return self._growth.num_preemptions

    @property
    def busy(self) -> bool:
        return bool(self.running or self.waiting or self.followers.unready or self.memory.busy)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises SequenceError when it could never run, GrammarsBusy."""
        check_sequence(sequence, self.max_sequence_tokens, self.runner.vocab_size)
        if sequence.sampling.grammar is not None:
            self.followers.open(sequence)
        else:
            self.waiting.add(sequence)

    def try_reserve(self, offered: OfferedSequence, num_reserved: int) -> Reservation | None:
        """Take the blocks of a sequence that another worker offers; None while there is no room.

        `num_reserved` others hold reservations, and will run here. A sequence that is going to run
        waits behind those in the queue: it would take every block that they need.
        """
        if self.waiting and offered.runs:
            return None
        return self.memory.try_reserve(
            block_hashes(offered.tokens, self.block_size, offered.traits),
            self.runner.layout.num_blocks(len(offered.tokens)),
            self.policy,
            len(self.running) + num_reserved,
            cached_multiple=max(1, offered.block_size // self.block_size),
        )

    def adopt(self, sequence: Sequence) -> None:
        """Continue a sequence whose KV cache is already in `sequence.blocks`."""
        sequence.move(Status.RUNNING)
        self.running.append(sequence)
        self.memory.publish(sequence, sequence.num_computed)
        if sequence.sampling.grammar is not None:
            self.followers.open(sequence)
            self.hold(sequence)

    def try_hold_cached(self, sequence: Sequence) -> bool:
        """Shorten a new sequence to the full blocks that are cached, and hold those.

        If some come from host memory, it is LOADING until `admit` returns it. False when there is
        none.
        """
        if not self.memory.try_give_cached(sequence):
            return False
        if sequence.status is Status.WAITING:
            self._hold_cached(sequence)
        return True

    def _hold_cached(self, sequence: Sequence) -> None:
        self.adopt(sequence)
        self.hold(sequence)

    def hold(self, sequence: Sequence) -> None:
        """Take a running sequence out of the steps; its blocks stay."""
        sequence.move(Status.HELD)
        self.running.remove(sequence)
        self.held[sequence.attempt_id] = sequence

    def resume(self, sequence: Sequence) -> None:
        """A held sequence takes part in the steps again."""
        sequence.move(Status.RUNNING)
        del self.held[sequence.attempt_id]
        self.running.append(sequence)

    def drop(self, sequence: Sequence) -> None:
        """End a sequence in whatever state; its blocks go back, and stay as prefix cache."""
        unready = self.followers.forget(sequence)
        match sequence.status:
            case Status.WAITING if not unready:
                self.waiting.remove(sequence)
            case Status.RUNNING:
                self.running.remove(sequence)
            case Status.HELD:
                del self.held[sequence.attempt_id]
            case Status.LOADING:
                pass  # its memory knows it
            case Status.FINISHED:
                return
        self._finish(sequence)

    def observe(self, seconds: float) -> None:
        """What `landed` took so long."""
        self.policy.observe(self.landed, seconds)
        self.memory.observe(self.landed, seconds)

    def step(self) -> list[SequenceProgress]:
        """One batch. Empty when nothing can run: no work, or no room until something ends."""
        self.admit()
        return self.run(self.schedule())

    def admit(self) -> list[Sequence]:
        """Queue to running: reuse the cached prefix, and take all blocks of the known tokens.

        Those whose blocks are to be filled from host memory start when they are.
        """
        if self.followers.unready:
            self._queue_ready()
        filled = self.memory.poll()
        for arrived in filled:
            self._take_filled(arrived)
        started: list[Sequence] = []
        while not self._growth.cramped and (sequence := self.waiting.first()) is not None:
            if not self._try_start(sequence, len(self.running) + len(started)):
                break
            if sequence.status is Status.WAITING:
                self._begin(sequence)
                started.append(sequence)
        self.running += started
        return filled + started

    @property
    def under_way(self) -> bool:
        """True while a step has been launched whose end was not told; see engine.async_engine."""
        return False

    @property
    def may_go_ahead(self) -> bool:
        """False when what is under way must be settled before anything else happens."""
        return True

    def settle(self) -> list[SequenceProgress]:
        """Wait for what is under way, and tell how far it has come."""
        return []

    def schedule(self) -> list[Slice]:
        """What the policy wants computed next, with blocks to hold it."""
        slices: list[Slice] = []
        growth = self._growth
        growth.cramped = False
        for share in self.policy.plan(self._ready()):
            sequence = share.sequence
            if sequence.status is Status.RUNNING and growth.try_grow(share, slices):
                slices.append(Slice(sequence, sequence.num_computed, share.count))
        return slices

    def run(self, slices: list[Slice], on_layer: OnLayer | None = None) -> list[SequenceProgress]:
        """Compute the slices as one batch, and note how far each sequence has come."""
        self.landed = slices
        outcomes = self.runner.run(slices, on_layer) if slices else []
        for piece in slices:
            piece.sequence.num_computed = piece.start + piece.num_known
        progress = [self._advance(*pair) for pair in zip(slices, outcomes, strict=True)]
        self.followers.follow()
        return progress

    def _try_start(self, sequence: Sequence, num_running: int) -> bool:
        num_running += self.memory.num_loading
        neighbours = chain(reversed(self.running), self.held.values())
        if not self.memory.try_give(sequence, self.policy, num_running, neighbours):
            return False
        self.waiting.remove(sequence)
        return True

    def _take_filled(self, sequence: Sequence) -> None:
        """Host memory has filled its blocks."""
        if sequence.num_uncomputed == 0:
            self._hold_cached(sequence)
        else:
            self._begin(sequence)
            self.running.append(sequence)

    def _begin(self, sequence: Sequence) -> None:
        """Its blocks are there, with as much in them as could be had."""
        if sequence.num_output == 0:
            sequence.num_cached = sequence.num_computed
        if not sequence.preempted:
            self.waiting.charge(sequence.traits.tenant, sequence.num_uncomputed)
        sequence.preempted = False
        sequence.move(Status.RUNNING)

    def _advance(self, piece: Slice, outcome: Outcome) -> SequenceProgress:
        sequence, grammar = piece.sequence, piece.sequence.grammar
        if isinstance(outcome, Scored):
            sequence.take_scores(piece.start, outcome.scores)
            outcome = outcome.draws
        if grammar is not None and grammar.error is not None:
            return self._break(piece)
        draws, finish, stop_token = self._take(sequence, accepted(piece.drafts, outcome))
        end = piece.start + piece.num_known
        if piece.drafts:
            end += len(draws) - 1  # the other draws were drafts, whose cache has been computed
            sequence.num_computed = end
        if grammar is not None and draws and finish is None:
            self.followers.drew(grammar, draws[-1].token)
        if end // self.block_size > sequence.num_published:
            self.memory.publish(sequence, end)
        if finish is not None:
            self._end(sequence)
        return SequenceProgress(sequence, piece.start, end, draws, finish, stop_token)

    def _take(
        self, sequence: Sequence, draws: Draws
    ) -> tuple[Draws, FinishReason | None, int | None]:
        """Append the draws up to the one that ends the sequence, if one does."""
        for number, sampled in enumerate(draws, 1):
            sequence.tokens.append(sampled.token)
            finish, stop_token = sequence.ending(self.runner.eos_token_ids)
            if finish is not None:
                return draws[:number], finish, stop_token
        return draws, None, None

    def _break(self, piece: Slice) -> SequenceProgress:
        """What was drawn follows no grammar, and nothing can follow it."""
        self._end(piece.sequence)
        self.followers.lose(piece.sequence)
        return SequenceProgress(piece.sequence, piece.start, piece.end, ())

    def _queue_ready(self) -> None:
        """Who had to wait for a grammar goes where it belongs."""
        for sequence in self.followers.ready():
            assert sequence.grammar is not None
            if sequence.grammar.error is not None:
                self.drop(sequence)
                self.followers.lose(sequence)
            elif self.followers.forget(sequence) and sequence.status is Status.HELD:
                self.resume(sequence)
            else:
                self.waiting.add(sequence)

    def _ready(self) -> Seq[Sequence]:
        """Who can take part in the next step."""
        return self.running

    def _end(self, sequence: Sequence) -> None:
        """A finished sequence that a transfer still reads is held until its owner drops it."""
        if sequence.pinned:
            self.hold(sequence)
        else:
            self.drop(sequence)

    def _finish(self, sequence: Sequence) -> None:
        sequence.move(Status.FINISHED)
        self.waiting.charge(sequence.traits.tenant, sequence.num_output)
        self._release(sequence)

    def _release(self, sequence: Sequence) -> None:
        self.memory.release(sequence)


def check_sequence(sequence: Sequence, longest: int, vocab_size: int) -> None:
    """Raises SequenceError for one of more than `longest` tokens in the end, or of tokens that the
    model does not know."""
    if not 0 < sequence.num_prompt <= len(sequence.tokens):
        raise SequenceError(
            f"{sequence.attempt_id}: num_prompt is {sequence.num_prompt} of {len(sequence.tokens)} "
            "tokens, must be at least 1"
        )
    if sequence.num_prompt + sequence.sampling.max_tokens > longest:
        raise SequenceError(
            f"{sequence.attempt_id}: {sequence.num_prompt} prompt tokens and "
            f"{sequence.sampling.max_tokens} new ones are more than the {longest} that this worker "
            "can hold"
        )
    if max(sequence.tokens) >= vocab_size or min(sequence.tokens) < 0:
        raise SequenceError(
            f"{sequence.attempt_id}: its token ids go from {min(sequence.tokens)} to "
            f"{max(sequence.tokens)}, the model's from 0 to {vocab_size - 1}"
        )

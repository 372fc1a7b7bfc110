"""The engine: continuous batching over a paged KV cache, one step at a time, in one thread."""

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
    """A step's result for one sequence: its KV cache reaches to `end` now, `sampled` are its new
    tokens. A finished sequence has given its blocks back, unless it is pinned."""

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
        self._allocator = BlockAllocator(self.running, self.waiting, self.memory, runner.layout)
        self.grammar_sequences = GrammarSequences(grammars)
        self.block_size = runner.layout.block_size
        self.completed_slices: list[Slice] = []
        """Slices of the step whose results were returned last; empty when none was."""

    @property
    def max_sequence_tokens(self) -> int:
        """The longest sequence that can run here when it has the pool to itself."""
        return min(self.runner.max_model_len, self.pool.num_blocks * self.block_size)

    @property
    def num_preemptions(self) -> int:
        return self._allocator.num_preemptions

    @property
    def busy(self) -> bool:
        return bool(
            self.running or self.waiting or self.grammar_sequences.unready or self.memory.busy
        )

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises SequenceError when it could never run, GrammarsBusy."""
        check_sequence(sequence, self.max_sequence_tokens, self.runner.vocab_size)
        if sequence.sampling.grammar is not None:
            self.grammar_sequences.open(sequence)
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
            self.grammar_sequences.open(sequence)
            self.hold(sequence)

    def try_hold_cached(self, sequence: Sequence) -> bool:
        """Shorten a new sequence to the full blocks that are cached, and hold it with those.

        If some come from host memory, it is LOADING until `admit` returns it. False when no block
        is cached.
        """
        if not self.memory.try_allocate_cached(sequence):
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
        unready = self.grammar_sequences.forget(sequence)
        match sequence.status:
            case Status.WAITING if not unready:
                self.waiting.remove(sequence)
            case Status.RUNNING:
                self.running.remove(sequence)
            case Status.HELD:
                del self.held[sequence.attempt_id]
            case Status.LOADING:
                pass  # `release` takes it out of the loads
            case Status.FINISHED:
                return
        self._finish(sequence)

    def observe(self, seconds: float) -> None:
        """Learn from a measurement: `completed_slices` took that many seconds."""
        self.policy.observe(self.completed_slices, seconds)
        self.memory.observe(self.completed_slices, seconds)

    def step(self) -> list[SequenceProgress]:
        """Run one batch. Empty when nothing can run: no work, or no blocks until something ends."""
        self.admit()
        return self.run(self.schedule())

    def admit(self) -> list[Sequence]:
        """Move sequences from the queue to `running`: with their cached prefix, and with blocks for
        all known tokens.

        A sequence whose blocks are loaded from host memory starts when they have been loaded.
        """
        if self.grammar_sequences.unready:
            self._queue_ready()
        filled = self.memory.poll()
        for loaded in filled:
            self._start_loaded(loaded)
        started: list[Sequence] = []
        while (
            not self._allocator.waiting_for_blocks
            and (sequence := self.waiting.first()) is not None
        ):
            if not self._try_start(sequence, len(self.running) + len(started)):
                break
            if sequence.status is Status.WAITING:
                self._begin(sequence)
                started.append(sequence)
        self.running += started
        return filled + started

    @property
    def in_flight(self) -> bool:
        """True while the results of a launched step are outstanding; see engine.async_engine."""
        return False

    @property
    def may_go_ahead(self) -> bool:
        """False when the step in flight must be settled before the next one is scheduled."""
        return True

    def settle(self) -> list[SequenceProgress]:
        """Wait for the step in flight, and return its results."""
        return []

    def schedule(self) -> list[Slice]:
        """Ask the policy for the next step, and allocate the blocks that it needs."""
        slices: list[Slice] = []
        allocator = self._allocator
        allocator.waiting_for_blocks = False
        for scheduled in self.policy.plan(self._ready()):
            sequence = scheduled.sequence
            if sequence.status is Status.RUNNING and allocator.try_grow(scheduled, slices):
                slices.append(Slice(sequence, sequence.num_computed, scheduled.count))
        return slices

    def run(self, slices: list[Slice], on_layer: OnLayer | None = None) -> list[SequenceProgress]:
        """Compute the slices as one batch, and return each sequence's progress."""
        self.completed_slices = slices
        outcomes = self.runner.run(slices, on_layer) if slices else []
        for slice in slices:
            slice.sequence.num_computed = slice.start + slice.num_known
        progress = [self._advance(*pair) for pair in zip(slices, outcomes, strict=True)]
        self.grammar_sequences.follow()
        return progress

    def _try_start(self, sequence: Sequence, num_running: int) -> bool:
        num_running += self.memory.num_loading
        neighbours = chain(reversed(self.running), self.held.values())
        if not self.memory.try_allocate(sequence, self.policy, num_running, neighbours):
            return False
        self.waiting.remove(sequence)
        return True

    def _start_loaded(self, sequence: Sequence) -> None:
        """Start a sequence whose blocks have been loaded from host memory."""
        if sequence.num_uncomputed == 0:
            self._hold_cached(sequence)
        else:
            self._begin(sequence)
            self.running.append(sequence)

    def _begin(self, sequence: Sequence) -> None:
        """Let a sequence run that has its blocks, and in them what could be found in caches."""
        if sequence.num_output == 0:
            sequence.num_cached = sequence.num_computed
        if not sequence.preempted:
            self.waiting.charge(sequence.traits.tenant, sequence.num_uncomputed)
        sequence.preempted = False
        sequence.move(Status.RUNNING)

    def _advance(self, slice: Slice, outcome: Outcome) -> SequenceProgress:
        sequence, grammar = slice.sequence, slice.sequence.grammar
        if isinstance(outcome, Scored):
            sequence.take_scores(slice.start, outcome.scores)
            outcome = outcome.draws
        if grammar is not None and grammar.error is not None:
            return self._break(slice)
        draws, finish, stop_token = self._take(sequence, accepted(slice.drafts, outcome))
        end = slice.start + slice.num_known
        if slice.drafts:
            end += len(draws) - 1  # the other draws were drafts, whose cache has been computed
            sequence.num_computed = end
        if grammar is not None and draws and finish is None:
            self.grammar_sequences.add_drawn(grammar, draws[-1].token)
        if end // self.block_size > sequence.num_published:
            self.memory.publish(sequence, end)
        if finish is not None:
            self._end(sequence)
        return SequenceProgress(sequence, slice.start, end, draws, finish, stop_token)

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

    def _break(self, slice: Slice) -> SequenceProgress:
        """End a sequence that cannot follow its grammar; the draw is dropped."""
        self._end(slice.sequence)
        self.grammar_sequences.fail(slice.sequence)
        return SequenceProgress(slice.sequence, slice.start, slice.end, ())

    def _queue_ready(self) -> None:
        """Sequences whose grammars are compiled go to the queue, or back to `running`."""
        for sequence in self.grammar_sequences.ready():
            assert sequence.grammar is not None
            if sequence.grammar.error is not None:
                self.drop(sequence)
                self.grammar_sequences.fail(sequence)
            elif self.grammar_sequences.forget(sequence) and sequence.status is Status.HELD:
                self.resume(sequence)
            else:
                self.waiting.add(sequence)

    def _ready(self) -> Seq[Sequence]:
        """Sequences that can take part in the next step."""
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
    """Raises SequenceError when prompt and answer may exceed `longest` tokens, or when a token id
    is outside the vocabulary."""
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

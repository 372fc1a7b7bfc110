"""KV cache blocks for sequences: prefix cache hits, loads from host memory, shared parts."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from itertools import islice

from engine.cache.block_pool import BlockPool
from engine.cache.host_tier import HostTier, PendingLoad
from engine.cache.partial_blocks import PartialBlocks
from engine.cache.reservation import Reservation
from engine.runner import Runner, Slice
from engine.schedule.policy import FreeCapacity, Policy
from engine.sequence import Sequence, Status

MAX_NEIGHBOURS = 64
"""Running sequences that are compared with a new one, the newest first."""
MIN_SHARED_FRACTION = 4
"""A block is copied for at least one in so many of its tokens."""


class KvMemory:
    """Allocates from the block pool, its prefix cache, and host memory behind it if there is any.

    A sequence gets blocks for all its tokens: cached blocks of its prefix, then blocks loaded from
    host memory, then a copy of a block whose first tokens it shares, then blank ones.
    """

    def __init__(self, runner: Runner, pool: BlockPool, tier: HostTier | None = None) -> None:
        self.pool = pool
        self.tier = tier
        self._runner = runner
        self._layout = runner.layout
        self._block_size = runner.layout.block_size
        self._min_shared = -(-runner.layout.block_size // MIN_SHARED_FRACTION)
        self._partial_blocks = PartialBlocks(pool, runner.layout.block_size)

    @property
    def busy(self) -> bool:
        """True while copies to or from host memory are in flight."""
        return self.tier is not None and self.tier.busy

    @property
    def num_loading(self) -> int:
        return 0 if self.tier is None else self.tier.num_loading

    @property
    def num_host_blocks(self) -> int:
        return 0 if self.tier is None else self.tier.pool.num_blocks

    @property
    def num_host_cached(self) -> int:
        return 0 if self.tier is None else self.tier.pool.num_cached

    @property
    def num_host_found(self) -> int:
        return 0 if self.tier is None else self.tier.pool.num_found

    def try_reserve(
        self,
        hashes: Seq[bytes],
        num_blocks: int,
        policy: Policy,
        num_running: int,
        *,
        cached_multiple: int = 1,
    ) -> Reservation | None:
        """`num_blocks` for a sequence whose prefix has these block hashes; None without room.

        Cached blocks are used in multiples of `cached_multiple`. Whether there is room the policy
        says, given the free blocks, which no longer include the cached ones, and `num_running`
        sequences.
        """
        cached = self.pool.acquire_prefix(hashes)
        num_cached = len(cached) // cached_multiple * cached_multiple
        self.pool.release(cached[num_cached:])
        cached = cached[:num_cached]
        num_missing = num_blocks - num_cached
        blank = None
        if policy.admits(FreeCapacity(self.pool.num_free, num_running), num_missing):
            blank = self.pool.try_allocate(num_missing)
        if blank is None:
            self.pool.release(cached)
            return None
        self.pool.note_hits(cached)
        return Reservation(cached, blank)

    def try_allocate(
        self, sequence: Sequence, policy: Policy, num_running: int, neighbours: Iterable[Sequence]
    ) -> bool:
        """Allocate blocks for a waiting sequence; it is LOADING then if some are loaded first.

        `neighbours` have blocks that it may share. False when there is no room.
        """
        if self.tier is not None and self.tier.is_leaving(sequence):
            return False
        hashes = sequence.update_hashes(self._block_size)
        reusable = hashes[: sequence.num_reusable // self._block_size]
        num_blocks = self._layout.num_blocks(len(sequence.tokens))
        reserved = self.try_reserve(reusable, num_blocks, policy, num_running)
        if reserved is None:
            return False
        sequence.blocks = reserved.blocks
        sequence.num_computed = len(reserved.cached) * self._block_size
        if self.tier is not None and self.tier.try_load(sequence):
            sequence.move(Status.LOADING)
        else:
            self._share_partial_block(sequence, neighbours)
        return True

    def try_allocate_cached(self, sequence: Sequence) -> bool:
        """Shorten a sequence to its full blocks that are cached, and give it those.

        It is LOADING after that if some must be filled first. False when there is none.
        """
        names = sequence.update_hashes(self._block_size)
        blocks = self.pool.acquire_prefix(names)
        num_found = len(blocks)
        if self.tier is not None:
            num_more = self.tier.pool.match_prefix(names[num_found:])
            blocks += self.pool.try_allocate(num_more) or []
        if not blocks:
            return False
        self.pool.note_hits(blocks[:num_found])
        sequence.shorten(len(blocks), self._block_size)
        sequence.blocks = blocks
        sequence.num_computed = num_found * self._block_size
        if self.tier is not None and len(blocks) > num_found:
            self.tier.load_all(sequence)
            sequence.move(Status.LOADING)
        return True

    def poll(self) -> list[Sequence]:
        """Finish copies that were made. Returns sequences that wait for loads no more."""
        if self.tier is None:
            return []
        arrived = self.tier.poll()
        ready = [self._filled(load) for load in arrived]
        return ready + [s for load in self.tier.overdue() if (s := self._replace(load)) is not None]

    def observe(self, slices: Seq[Slice], seconds: float) -> None:
        """Learn from a step's duration."""
        if self.tier is not None:
            self.tier.costs.observe_step(slices, seconds)

    def will_free(self, num_blocks: int) -> bool:
        """True when that many blocks will be free once the copies in flight are made."""
        return self.tier is not None and (self.pool.num_free + self.tier.num_leaving >= num_blocks)

    def publish(self, sequence: Sequence, num_computed: int) -> None:
        """Enter blocks that have become full into the prefix cache."""
        num_full = num_computed // self._block_size
        if num_full <= sequence.num_published or not sequence.traits.cache_prompt:
            return
        hashes = sequence.update_hashes(self._block_size)
        for index in range(sequence.num_published, num_full):
            self.pool.publish(sequence.blocks[index], hashes[index])
        sequence.num_published = num_full

    def try_swap_out(self, sequence: Sequence) -> bool:
        """Swap a preempted sequence out to host memory; False when it is to be recomputed."""
        if self.tier is None or not self.tier.try_swap_out(sequence):
            return False
        self._forget_blocks(sequence)
        return True

    def release(self, sequence: Sequence) -> None:
        """Release a sequence's blocks, in the cache and in host memory; they stay cached there."""
        if self.tier is not None:
            self.tier.forget(sequence)
        if sequence.blocks:
            if sequence.traits.cache_prompt:
                self._partial_blocks.keep(sequence)
            self.pool.release(sequence.blocks)
        self._forget_blocks(sequence)

    def take_host_events(self) -> tuple[list[bytes], list[bytes]]:
        """Hashes stored in host memory and removed from it; see BlockPool.take_events."""
        return ([], []) if self.tier is None else self.tier.pool.take_events()

    def host_hashes(self) -> list[bytes]:
        """All block hashes in host memory."""
        return [] if self.tier is None else self.tier.pool.cached_hashes()

    def check_integrity(self) -> None:
        """Raises AssertionError when a block is lost in the cache or in host memory."""
        self.pool.check_integrity()
        if self.tier is not None:
            self.tier.check_integrity()

    def close(self) -> None:
        if self.tier is not None:
            self.tier.close()

    def _share_partial_block(self, sequence: Sequence, neighbours: Iterable[Sequence]) -> None:
        if sequence.wants_scores or not sequence.traits.cache_prompt:
            return
        cached = (neighbour for neighbour in neighbours if neighbour.traits.cache_prompt)
        nearest = islice(cached, MAX_NEIGHBOURS)
        found = self._partial_blocks.try_share(sequence, nearest, self._min_shared)
        if found is None:
            return
        source, count = found
        target = sequence.blocks[sequence.num_computed // self._block_size]
        self._runner.copy_block(source, target)
        self.pool.note_hits([source])
        self.pool.release([source])
        sequence.num_computed += count

    def _filled(self, load: PendingLoad) -> Sequence:
        sequence = load.sequence
        assert sequence is not None
        sequence.num_computed = load.num_tokens
        self.publish(sequence, load.num_tokens)
        return sequence

    def _replace(self, load: PendingLoad) -> Sequence | None:
        """Blocks to compute in place of an overdue load's; None while there are none."""
        assert self.tier is not None
        assert load.sequence is not None
        sequence, new = load.sequence, self.pool.try_allocate(len(load.blocks))
        if new is None:
            return None
        first = sequence.num_computed // self._block_size
        sequence.blocks[first : first + len(new)] = new
        self.tier.give_up(load)
        return sequence

    @staticmethod
    def _forget_blocks(sequence: Sequence) -> None:
        sequence.blocks = []
        sequence.num_computed = 0
        sequence.num_published = 0

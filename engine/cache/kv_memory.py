"""How sequences come by their blocks, and what becomes of those that they leave."""

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

MOST_NEIGHBOURS = 64
"""Running sequences that are asked whether they begin like a new one; the newest."""
LEAST_SHARED = 4
"""A part of so many of a block's tokens is worth a copy of it."""


class KvMemory:
    """The pool, the tails in it, and the host memory behind it, where there is one.

    A sequence is given blocks for all tokens that it has: those of its prefix that are cached, then
    those that come from host memory, then a copy of a block of which it shares a part, then blank
    ones.
    """

    def __init__(self, runner: Runner, pool: BlockPool, tier: HostTier | None = None) -> None:
        self.pool = pool
        self.tier = tier
        self._runner = runner
        self._layout = runner.layout
        self._block_size = runner.layout.block_size
        self._least_shared = -(-runner.layout.block_size // LEAST_SHARED)
        self._tails = PartialBlocks(pool, runner.layout.block_size)

    @property
    def busy(self) -> bool:
        """Copies to or from host memory are under way."""
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

    def try_give(
        self, sequence: Sequence, policy: Policy, num_running: int, neighbours: Iterable[Sequence]
    ) -> bool:
        """Blocks for a waiting sequence, which is LOADING after that if some must be filled first.

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
            self._share_tail(sequence, neighbours)
        return True

    def try_give_cached(self, sequence: Sequence) -> bool:
        """Shorten a sequence to the full blocks that are to be had, and give it those.

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
        """Look after copies. Returns the sequences that need not wait for theirs any more."""
        if self.tier is None:
            return []
        arrived = self.tier.poll()
        ready = [self._filled(load) for load in arrived]
        return ready + [s for load in self.tier.overdue() if (s := self._replace(load)) is not None]

    def observe(self, slices: Seq[Slice], seconds: float) -> None:
        """A step took so long."""
        if self.tier is not None:
            self.tier.costs.observe_step(slices, seconds)

    def room_is_coming(self, num_blocks: int) -> bool:
        """So many will be free when copies that are under way have been made."""
        return self.tier is not None and (self.pool.num_free + self.tier.num_leaving >= num_blocks)

    def publish(self, sequence: Sequence, num_computed: int) -> None:
        """Name the blocks that are full by now."""
        num_full = num_computed // self._block_size
        if num_full <= sequence.num_published or not sequence.traits.cache_prompt:
            return
        hashes = sequence.update_hashes(self._block_size)
        for index in range(sequence.num_published, num_full):
            self.pool.publish(sequence.blocks[index], hashes[index])
        sequence.num_published = num_full

    def try_swap_out(self, sequence: Sequence) -> bool:
        """Its blocks come free, now or soon, and nothing of it will have to be computed again."""
        if self.tier is None or not self.tier.try_swap_out(sequence):
            return False
        self._forget_blocks(sequence)
        return True

    def release(self, sequence: Sequence) -> None:
        """Give a sequence's blocks back, wherever they are; they stay as cache."""
        if self.tier is not None:
            self.tier.forget(sequence)
        if sequence.blocks:
            if sequence.traits.cache_prompt:
                self._tails.keep(sequence)
            self.pool.release(sequence.blocks)
        self._forget_blocks(sequence)

    def take_host_events(self) -> tuple[list[bytes], list[bytes]]:
        """Hashes that came to host memory and that left it; see BlockPool.take_events."""
        return ([], []) if self.tier is None else self.tier.pool.take_events()

    def host_hashes(self) -> list[bytes]:
        """Every block hash that host memory has now."""
        return [] if self.tier is None else self.tier.pool.cached_hashes()

    def check_integrity(self) -> None:
        """Raises AssertionError when a block is lost in the cache or in host memory."""
        self.pool.check_integrity()
        if self.tier is not None:
            self.tier.check_integrity()

    def close(self) -> None:
        if self.tier is not None:
            self.tier.close()

    def _share_tail(self, sequence: Sequence, neighbours: Iterable[Sequence]) -> None:
        if sequence.wants_scores or not sequence.traits.cache_prompt:
            return
        cached = (neighbour for neighbour in neighbours if neighbour.traits.cache_prompt)
        nearest = islice(cached, MOST_NEIGHBOURS)
        found = self._tails.try_share(sequence, nearest, self._least_shared)
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
        """Blocks that a sequence can compute itself; None while there are none."""
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

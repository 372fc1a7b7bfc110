"""Copies of blocks that are under way, and what is to be done when each has been made."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq

from engine.cache.block_copier import BlockCopier, Copy
from engine.cache.copy_costs import CopyCosts


class PendingCopies:
    """Between the cache and host memory, in either direction; their times go to `costs`."""

    def __init__(self, copier: BlockCopier, block_bytes: int, costs: CopyCosts) -> None:
        self._copier = copier
        self._block_bytes = block_bytes
        self._costs = costs
        self._under_way: dict[int, tuple[int, Callable[[], None]]] = {}
        """By number: how many blocks, and what comes then."""
        self._num_copies = 0

    def __len__(self) -> int:
        return len(self._under_way)

    def start(
        self, blocks: Seq[int], slots: Seq[int], then: Callable[[], None], *, up: bool
    ) -> None:
        """Cache block blocks[i] to host block slots[i], or back where it goes `up`."""
        self._num_copies += 1
        self._under_way[self._num_copies] = len(blocks), then
        ends = sorted(zip(blocks, slots, strict=True))  # neighbours are one copy
        copied = tuple(block for block, _ in ends), tuple(slot for _, slot in ends)
        self._copier.start(Copy(self._num_copies, *copied, up))

    def poll(self) -> None:
        """What was to be done after those that have been made is done now."""
        for copied in self._copier.take_copied():
            num_blocks, then = self._under_way.pop(copied.number)
            self._costs.observe_copy(num_blocks * self._block_bytes, copied.seconds)
            then()

    def close(self) -> None:
        self._copier.close()

"""Block copies in flight, each with a callback for its end."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq

from engine.cache.block_copier import BlockCopier, Copy
from engine.cache.copy_costs import CopyCosts


class PendingCopies:
    """Copies between the cache and host memory, in both directions; `costs` learns their times."""

    def __init__(self, copier: BlockCopier, block_bytes: int, costs: CopyCosts) -> None:
        self._copier = copier
        self._block_bytes = block_bytes
        self._costs = costs
        self._under_way: dict[int, tuple[int, Callable[[], None]]] = {}
        """Copy number -> number of blocks, and the callback."""
        self._num_copies = 0

    def __len__(self) -> int:
        return len(self._under_way)

    def start(
        self, blocks: Seq[int], host_blocks: Seq[int], then: Callable[[], None], *, up: bool
    ) -> None:
        """Start a copy, see block_copier.Copy; `then` is called by `poll` when it is made."""
        self._num_copies += 1
        self._under_way[self._num_copies] = len(blocks), then
        ends = sorted(zip(blocks, host_blocks, strict=True))  # contiguous runs are one copy
        copied = tuple(block for block, _ in ends), tuple(host_block for _, host_block in ends)
        self._copier.start(Copy(self._num_copies, *copied, up))

    def poll(self) -> None:
        """Call the callbacks of copies that have been made."""
        for copied in self._copier.take_copied():
            num_blocks, then = self._under_way.pop(copied.number)
            self._costs.observe_copy(num_blocks * self._block_bytes, copied.seconds)
            then()

    def close(self) -> None:
        self._copier.close()

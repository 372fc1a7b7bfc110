"""The queue of a transfer thread: parts of writes that wait, and those under way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from kv_transfer.endpoints.write_path import WritePart


class WriteQueue:
    """At most `max_blocks_in_flight` blocks, or one part, are under way over one rank pair.

    The rest waits here, so that one long handoff does not fill the fabric's queues.
    """

    def __init__(self, max_blocks_in_flight: int) -> None:
        self.waiting: list[WritePart] = []
        self.in_flight: list[WritePart] = []
        self._max_blocks_in_flight = max_blocks_in_flight

    def post(
        self,
        try_post: Callable[[WritePart], bool],
        connected: Collection[str],
        measured: Collection[str],
    ) -> None:
        """Try to post what may go: least laxity first. (Dertouzos and Mok, IEEE TSE 15(12), 1989)

        Parts over links that are being `measured` wait. `try_post` is also given those whose link
        is not `connected` any more; it may call `drop`.
        """
        num_blocks: Counter[str] = Counter()
        for part in self.in_flight:
            num_blocks[part.path.name] += len(part.block_write.blocks)
        waiting, self.waiting = self.waiting, []
        for part in sorted(waiting, key=lambda part: part.latest_start):
            used = num_blocks[part.path.name]
            num_blocks[part.path.name] += len(part.block_write.blocks)
            full = used and num_blocks[part.path.name] > self._max_blocks_in_flight
            waits = part.link in connected and (full or part.link in measured)
            if waits or not try_post(part):
                self.waiting.append(part)

    def drop(self, link: str) -> list[WritePart]:
        """Forget all parts over a link: first those under way, then those that wait."""
        parts = [part for part in (*self.in_flight, *self.waiting) if part.link == link]
        self.in_flight = [part for part in self.in_flight if part.link != link]
        self.waiting = [part for part in self.waiting if part.link != link]
        return parts

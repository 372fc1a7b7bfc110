"""Happens-before: who may touch memory when, whatever the speed of the streams.

Kernels, copies and transfers are operations. Each knows the operations that are certainly over when
it runs: those before it on its stream, those of events that its stream waits for, and those that
its worker knew to be over at the launch. Two operations that touch the same memory, one of which
writes, must know each other; that they happened to run in a good order does not count. A clock is
a set of operations, as the bits of an integer. (Lamport, CACM 21(7), 1978; vector clocks)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kv_transfer.streams import AccessedBlocks

WORD = 8


class Order:
    """All operations on all memory of a test."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._names: list[str] = []
        self._writer: dict[int, int] = {}
        self._readers: dict[int, list[int]] = {}

    def begin(
        self, name: str, clock: int, reads: Iterable[int] = (), writes: Iterable[int] = ()
    ) -> int:
        """Add an operation that runs after those of `clock`; returns the clock that it is in.

        `reads` and `writes` are numbers of words.
        """
        number = len(self._names)
        self._names.append(name)
        for word in reads:
            self._check(number, clock, self._writer.get(word), "reads what is written by")
            self._readers.setdefault(word, []).append(number)
        for word in writes:
            self._check(number, clock, self._writer.get(word), "writes what is written by")
            for reader in self._readers.pop(word, ()):
                self._check(number, clock, reader, "writes what is read by")
            self._writer[word] = number
        return clock | 1 << number

    def _check(self, number: int, clock: int, other: int | None, what: str) -> None:
        if other is not None and other != number and not clock >> other & 1:
            fault = f"{self._names[number]} {what} {self._names[other]}"
            if fault not in self.faults:
                self.faults.append(fault)


def words_of(accessed: Sequence[AccessedBlocks]) -> Iterator[int]:
    for each in accessed:
        for number in each.numbers:
            start = each.address + number * each.stride
            yield from words(start, each.num_bytes)


def words(address: int, num_bytes: int) -> range:
    return range(address // WORD, -(-(address + num_bytes) // WORD))

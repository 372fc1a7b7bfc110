"""The checksum's Triton kernel: gathers, weighs and adds words in registers, without scratch."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kv_transfer.layout.device_checksum import MULTIPLIER, WORD_BYTES

PART_BYTES = 32 << 20
"""Most bytes of one launch: the kernels of a step come in between launches."""
TILE = 2048
"""Words of a program: 16 for each of 128 threads."""

_WEIGHT = tl.constexpr(MULTIPLIER)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["num_words", "begin"], do_not_specialize_on_alignment=["words", "total"]
)  # one variant, so that nothing is compiled while a worker serves
def add_words(words, index, total, num_words, begin, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """A program adds one tile of one block. `total` is the same in whatever order they come."""
    row = begin + tl.program_id(0)
    first = tl.load(index)
    block = tl.load(index + 1 + row)
    offsets = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    values = tl.load(words + block * num_words + offsets, mask=offsets < num_words, other=0)
    places = (first + row) * num_words + offsets
    tl.atomic_add(total, tl.sum(values * ((places * _WEIGHT) | 1)), sem="relaxed")


def add_by_triton(total: Tensor, words: Tensor, index: Tensor) -> None:
    """Implements kv_transfer.layout.device_checksum.AddWords."""
    num_words, num_blocks = words.shape[1], len(index) - 1
    most = max(1, PART_BYTES // (num_words * WORD_BYTES))
    for begin in range(0, num_blocks, most):
        grid = min(most, num_blocks - begin), triton.cdiv(num_words, TILE)
        add_words[grid](words, index, total, num_words, begin, TILE=TILE)

"""Triton kernels between products. engine.cuda.operations launches them.

Numbers are float32 within a kernel, and rounded once, where they are stored.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_norm(hidden, added, weight, normed, eps, HAS_ADDED: tl.constexpr, SIZE: tl.constexpr, PADDED: tl.constexpr):  # fmt: skip  # noqa: E501
    """A row: hidden += added, normed = RMS norm of hidden."""
    row = tl.program_id(0).to(tl.int64) * SIZE
    place = tl.arange(0, PADDED)
    inside = place < SIZE
    values = tl.load(hidden + row + place, mask=inside, other=0.0).to(tl.float32)
    if HAS_ADDED:
        values += tl.load(added + row + place, mask=inside, other=0.0).to(tl.float32)
        stored = values.to(hidden.dtype.element_ty)
        tl.store(hidden + row + place, stored, mask=inside)
        values = stored.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, 0) / SIZE + eps)
    weights = tl.load(weight + place, mask=inside, other=0.0).to(tl.float32)
    result = values * scale * weights
    tl.store(normed + row + place, result.to(normed.dtype.element_ty), mask=inside)


@triton.jit
def gate(gate_up, gated, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """A part of a row: silu(gate) * up."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < SIZE
    left = tl.load(gate_up + row * 2 * SIZE + place, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(gate_up + row * 2 * SIZE + SIZE + place, mask=inside, other=0.0)
    result = left / (1.0 + tl.exp(-left)) * right.to(tl.float32)
    tl.store(gated + row * SIZE + place, result.to(gated.dtype.element_ty), mask=inside)


@triton.jit
def rotate_and_store(
    heads,
    cosines,
    sines,
    cache,
    scales,
    blocks,
    slots,
    block_stride,
    kind_stride,
    head_stride,
    scale_stride,
    SCALED: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    PADDED_HALF: tl.constexpr,
):
    """One head of a token: queries are rotated in place; keys, rotated, and values are stored."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    HALF: tl.constexpr = HEAD_SIZE // 2
    place = tl.arange(0, PADDED_HALF)
    inside = place < HALF
    source = heads + (token * (NUM_HEADS + 2 * NUM_KV_HEADS) + head) * HEAD_SIZE + place
    first = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + HALF, mask=inside, other=0.0).to(tl.float32)
    if head < NUM_HEADS + NUM_KV_HEADS:
        cosine = tl.load(cosines + token * HALF + place, mask=inside, other=0.0)
        sine = tl.load(sines + token * HALF + place, mask=inside, other=0.0)
        turned = first * cosine - second * sine
        second = second * cosine + first * sine
        first = turned
    if head < NUM_HEADS:
        tl.store(source, first.to(heads.dtype.element_ty), mask=inside)
        tl.store(source + HALF, second.to(heads.dtype.element_ty), mask=inside)
    else:
        kind = (head - NUM_HEADS) // NUM_KV_HEADS
        own = (head - NUM_HEADS) % NUM_KV_HEADS
        block = tl.load(blocks + token).to(tl.int64)
        if SCALED:
            scale = tl.load(scales + block * scale_stride + kind * NUM_KV_HEADS + own)
            first, second = first / scale, second / scale
        target = cache + block * block_stride
        target += kind * kind_stride + own * head_stride
        target += tl.load(slots + token).to(tl.int64) * HEAD_SIZE + place
        tl.store(target, first.to(cache.dtype.element_ty), mask=inside)
        tl.store(target + HALF, second.to(cache.dtype.element_ty), mask=inside)


@triton.jit
def write_one(target):
    """A number that shows that kernels run."""
    tl.store(target, 1)

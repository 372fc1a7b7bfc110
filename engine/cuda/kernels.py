"""Triton kernels. Each is launched by one function of engine.cuda.operations.

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
def decode(
    query,
    cache,
    scales,
    tables,
    positions,
    output,
    partial,
    weight,
    scale,
    query_stride,
    table_stride,
    row_stride,
    block_stride,
    kind_stride,
    head_stride,
    scale_stride,
    SCALED: tl.constexpr,
    WINDOW: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    GROUP: tl.constexpr,
    PADDED_GROUP: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    PADDED_HEAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    NUM_KEYS: tl.constexpr,
):
    """The query heads of one KV head over one split of one sequence's keys.

    Split keys and a running maximum: Flash-Decoding (Dao et al., 2023). `scale` is in base 2.
    """
    row, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    num_kv_heads = tl.num_programs(1)
    end = tl.load(positions + row).to(tl.int32) + 1
    begin = tl.maximum(end - WINDOW, 0) if WINDOW > 0 else 0
    first = begin // NUM_KEYS * NUM_KEYS
    share = tl.cdiv(tl.cdiv(end - first, NUM_KEYS), NUM_SPLITS) * NUM_KEYS
    low = first + split * share
    high = tl.minimum(low + share, end)

    member, place = tl.arange(0, PADDED_GROUP), tl.arange(0, PADDED_HEAD)
    ours = (member < GROUP)[:, None] & (place < HEAD_SIZE)[None, :]
    heads = head * GROUP + member
    at = query + row.to(tl.int64) * query_stride + heads[:, None] * HEAD_SIZE + place[None, :]
    queries = tl.load(at, mask=ours, other=0.0)
    best = tl.full([PADDED_GROUP], float("-inf"), tl.float32)
    total = tl.zeros([PADDED_GROUP], tl.float32)
    result = tl.zeros([PADDED_GROUP, PADDED_HEAD], tl.float32)
    for start in range(low, high, NUM_KEYS):
        key = start + tl.arange(0, NUM_KEYS)
        seen = (key >= begin) & (key < high)
        entry = tables + (key // BLOCK_SIZE).to(tl.int64) * table_stride + row * row_stride
        block = tl.load(entry, mask=seen, other=0).to(tl.int64)
        base = cache + block * block_stride + head * head_stride + (key % BLOCK_SIZE) * HEAD_SIZE
        there = seen[:, None] & (place < HEAD_SIZE)[None, :]
        keys = tl.load(base[:, None] + place[None, :], mask=there, other=0.0)
        values = tl.load(base[:, None] + kind_stride + place[None, :], mask=there, other=0.0)
        if SCALED:
            own = scales + block * scale_stride + head
            key_scale = tl.load(own, mask=seen, other=0.0)
            value_scale = tl.load(own + num_kv_heads, mask=seen, other=0.0)
            keys = keys.to(tl.float32) * key_scale[:, None]
            values = values.to(tl.float32) * value_scale[:, None]
        keys, values = keys.to(queries.dtype), values.to(queries.dtype)
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        higher = tl.maximum(best, tl.max(scores, 1))
        shares = tl.exp2(scores - higher[:, None])
        shrink = tl.exp2(best - higher)
        total = total * shrink + tl.sum(shares, 1)
        result = result * shrink[:, None]
        result += tl.dot(shares.to(values.dtype), values, input_precision="ieee")
        best = higher

    number = row.to(tl.int64) * num_kv_heads * GROUP + heads
    if NUM_SPLITS == 1:
        at = output + number[:, None] * HEAD_SIZE + place[None, :]
        tl.store(at, (result / total[:, None]).to(output.dtype.element_ty), mask=ours)
    else:
        number = number * NUM_SPLITS + split
        tl.store(partial + number[:, None] * HEAD_SIZE + place[None, :], result, mask=ours)
        tl.store(weight + number * 2, best, mask=member < GROUP)
        tl.store(weight + number * 2 + 1, total, mask=member < GROUP)


@triton.jit
def combine(
    partial,
    weight,
    output,
    NUM_SPLITS: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    PADDED_SPLITS: tl.constexpr,
    PADDED_HEAD: tl.constexpr,
):
    """Combine one query head's splits, each relative to its own maximum."""
    number = tl.program_id(0).to(tl.int64)
    split, place = tl.arange(0, PADDED_SPLITS), tl.arange(0, PADDED_HEAD)
    made, inside = split < NUM_SPLITS, place < HEAD_SIZE
    at = weight + (number * NUM_SPLITS + split) * 2
    best = tl.load(at, mask=made, other=float("-inf"))
    total = tl.load(at + 1, mask=made, other=0.0)
    scales = tl.exp2(best - tl.max(best, 0))
    at = partial + (number * NUM_SPLITS + split)[:, None] * HEAD_SIZE + place[None, :]
    parts = tl.load(at, mask=made[:, None] & inside[None, :], other=0.0)
    summed = tl.sum(parts * scales[:, None], 0) / tl.sum(total * scales, 0)
    tl.store(output + number * HEAD_SIZE + place, summed.to(output.dtype.element_ty), mask=inside)

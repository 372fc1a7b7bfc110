"""Triton kernels of paged decode attention, launched by engine.cuda.operations and splits.

Contexts differ in length, and a captured graph's grid does not. So a fixed number of items is
divided among the rows on the device, where lengths are known: `plan_splits` gives each row one item
or more, all of about equally many keys; `decode` attends over the keys of an item; `combine` joins
those of a row (split-KV: Flash-Decoding, Dao et al., 2023).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_rows", "capacity"])
def plan_splits(
    positions,
    firsts,
    items,
    num_rows,
    capacity,
    WINDOW: tl.constexpr,
    NUM_KEYS: tl.constexpr,
    PADDED_ROWS: tl.constexpr,
):
    """Fill `firsts` [rows + 1] and `items` [3, capacity] of engine.cuda.splits.Splits.

    Splits are as short as the number of items allows, in multiples of NUM_KEYS.
    """
    row = tl.arange(0, PADDED_ROWS)
    inside = row < num_rows
    end = tl.load(positions + row, mask=inside, other=-1).to(tl.int32) + 1
    begin = tl.maximum(end - WINDOW, 0) if WINDOW > 0 else end * 0
    chunks = tl.cdiv(end - begin, NUM_KEYS)
    share = tl.maximum(tl.cdiv(tl.sum(chunks, 0), capacity), 1)
    while tl.sum(tl.cdiv(chunks, share), 0) > capacity:
        share += tl.cdiv(share, 8)
    counts = tl.cdiv(chunks, share)
    after = tl.cumsum(counts, 0)
    tl.store(firsts + row, after - counts, mask=inside)
    tl.store(firsts + row + 1, after, mask=row == num_rows - 1)
    for number in range(0, tl.max(counts, 0)):
        made = number < counts
        item = items + after - counts + number
        low = begin + number * share * NUM_KEYS
        tl.store(item, row, mask=made)
        tl.store(item + capacity, low, mask=made)
        tl.store(item + 2 * capacity, tl.minimum(low + share * NUM_KEYS, end), mask=made)
    for start in range(tl.sum(counts, 0), capacity, PADDED_ROWS):  # the items that are left over
        item = start + row
        tl.store(items + capacity + item, 0, mask=item < capacity)
        tl.store(items + 2 * capacity + item, 0, mask=item < capacity)


@triton.jit
def decode(
    query,
    cache,
    scales,
    tables,
    positions,
    items,
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
    SPLIT: tl.constexpr,
    WINDOW: tl.constexpr,
    GROUP: tl.constexpr,
    PADDED_GROUP: tl.constexpr,
    HEAD_SIZE: tl.constexpr,
    PADDED_HEAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    NUM_KEYS: tl.constexpr,
):
    """The query heads of one KV head over one item's keys, or a whole row's without SPLIT.

    With a running maximum; `scale` is in base 2.
    """
    item, head = tl.program_id(0), tl.program_id(1)
    num_kv_heads = tl.num_programs(1)
    if SPLIT:
        capacity = tl.num_programs(0)
        row = tl.load(items + item)
        low = tl.load(items + capacity + item)
        high = tl.load(items + 2 * capacity + item)
        if low >= high:
            return
    else:
        row = item
        high = tl.load(positions + row).to(tl.int32) + 1
        low = tl.maximum(high - WINDOW, 0) if WINDOW > 0 else 0

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
        seen = key < high
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

    if SPLIT:
        number = item.to(tl.int64) * num_kv_heads * GROUP + heads
        tl.store(partial + number[:, None] * HEAD_SIZE + place[None, :], result, mask=ours)
        tl.store(weight + number * 2, best, mask=member < GROUP)
        tl.store(weight + number * 2 + 1, total, mask=member < GROUP)
    else:
        number = row.to(tl.int64) * num_kv_heads * GROUP + heads
        at = output + number[:, None] * HEAD_SIZE + place[None, :]
        tl.store(at, (result / total[:, None]).to(output.dtype.element_ty), mask=ours)


@triton.jit
def combine(
    firsts,
    partial,
    weight,
    output,
    HEAD_SIZE: tl.constexpr,
    PADDED_HEAD: tl.constexpr,
    NUM_ITEMS: tl.constexpr,
):
    """Combine one query head's splits, each relative to its own maximum, NUM_ITEMS at a time."""
    row, head = tl.program_id(0), tl.program_id(1)
    num_heads = tl.num_programs(1)
    first, end = tl.load(firsts + row), tl.load(firsts + row + 1)
    place = tl.arange(0, PADDED_HEAD)
    inside = place < HEAD_SIZE
    best = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    result = tl.zeros([PADDED_HEAD], tl.float32)
    for start in range(first, end, NUM_ITEMS):
        item = start + tl.arange(0, NUM_ITEMS)
        made = item < end
        number = item.to(tl.int64) * num_heads + head
        highest = tl.load(weight + number * 2, mask=made, other=float("-inf"))
        sums = tl.load(weight + number * 2 + 1, mask=made, other=0.0)
        at = partial + number[:, None] * HEAD_SIZE + place[None, :]
        parts = tl.load(at, mask=made[:, None] & inside[None, :], other=0.0)
        higher = tl.maximum(best, tl.max(highest, 0))
        scales = tl.exp2(highest - higher)
        shrink = tl.exp2(best - higher)
        total = total * shrink + tl.sum(sums * scales, 0)
        result = result * shrink + tl.sum(parts * scales[:, None], 0)
        best = higher
    at = output + (row.to(tl.int64) * num_heads + head) * HEAD_SIZE + place
    tl.store(at, (result / total).to(output.dtype.element_ty), mask=inside)

"""Triton kernels that find what top-k and top-p keep, without sorting.

They look for a distance (see engine.cuda.draw_kernels): the smallest within which enough lies, k
tokens or p of the mass. Tokens of equal logits are equally far, and so stay or go together.
"""

from __future__ import annotations

import triton
import triton.language as tl

from engine.cuda.draw_kernels import distances, mass_at

INFINITY: tl.constexpr = tl.constexpr(0x7F800000)
"""The bits of float32's infinity: the largest distance."""


@triton.jit
def measure(
    logits,
    tops,
    temperatures,
    top_ks,
    top_ps,
    counts,
    masses,
    totals,
    row_stride,
    vocab_size,
    SPAN: tl.constexpr,
    TILE: tl.constexpr,
):
    """One split of one row: how many tokens lie within each pivot, their mass, and all mass."""
    row, split, splits = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    top_k, top_p = tl.load(top_ks + row), tl.load(top_ps + row)
    if (top_k > 0) | (top_p < 1.0):
        temperature = tl.load(temperatures + row)
        count, mass, total = _measure(
            logits + row.to(tl.int64) * row_stride,
            split * SPAN,
            tl.minimum(split * SPAN + SPAN, vocab_size),
            tl.load(tops + row),
            temperature,
            top_p < 1.0,
            _first_pivots(top_k, temperature),
            TILE,
        )
        at = (row * 4 + tl.arange(0, 4)) * splits + split
        tl.store(counts + at, count)
        tl.store(masses + at, mass)
        tl.store(totals + row * splits + split, total)


@triton.jit
def find_limits(
    logits,
    tops,
    temperatures,
    top_ks,
    top_ps,
    counts,
    masses,
    totals,
    candidates,
    limits,
    row_stride,
    vocab_size,
    num_splits,
    PADDED_SPLITS: tl.constexpr,
    TILE: tl.constexpr,
    ROOM: tl.constexpr,
):
    """The largest distance that a row's top-k, then its top-p of what is left, and `limits` keep.

    Pivots narrow a bracket around the wanted distance until at most ROOM tokens lie in there; those
    are collected, and the bracket is bisected.
    """
    row = tl.program_id(0)
    top_k, top_p = tl.load(top_ks + row), tl.load(top_ps + row)
    if (top_k > 0) | (top_p < 1.0):
        temperature, top = tl.load(temperatures + row), tl.load(tops + row)
        row_logits = logits + row.to(tl.int64) * row_stride
        found = candidates + row.to(tl.int64) * ROOM
        pivots = _first_pivots(top_k, temperature)
        split = tl.arange(0, PADDED_SPLITS)
        made = split < num_splits
        at = (row * 4 + tl.arange(0, 4))[:, None] * num_splits + split[None, :]
        count = tl.sum(tl.load(counts + at, mask=made[None, :], other=0), 1)
        mass = tl.sum(tl.load(masses + at, mask=made[None, :], other=0.0), 1)
        total = tl.sum(tl.load(totals + row * num_splits + split, mask=made, other=0.0), 0)
        high, within, mass_within = tl.full([], INFINITY, tl.int32), vocab_size, total
        for by_mass in range(2):
            if ((by_mass == 0) & (top_k > 0)) | ((by_mass == 1) & (top_p < 1.0)):
                goal = tl.where(by_mass == 1, top_p * mass_within, top_k.to(tl.float64))
                # fmt: off
                high, within, mass_within = _search(
                    row_logits, vocab_size, top, temperature, top_p < 1.0, pivots, count, mass,
                    high, within, mass_within, goal, by_mass, found, TILE, ROOM,
                )
                # fmt: on
        limit = tl.minimum(tl.load(limits + row), high.to(tl.float32, bitcast=True))
        tl.store(limits + row, limit)


@triton.jit
def _search(
    row_logits,
    vocab_size,
    top,
    temperature,
    weighs,
    pivots,
    count,
    mass,
    high,
    within,
    mass_within,
    goal,
    by_mass,
    found,
    TILE: tl.constexpr,
    ROOM: tl.constexpr,
):
    """The smallest distance, up to `high`, within which the goal is reached, and what lies within.

    It is in [low, high]. Before low lie `before` tokens and their mass, within high `within` tokens
    and theirs; count and mass [4] are those within the pivots that are tried first.
    """
    low, before = tl.full([], 0, tl.int32), tl.full([], 0, tl.int32)
    mass_before = tl.full([], 0.0, tl.float64)
    # fmt: off
    low, before, mass_before, high, within, mass_within = _narrow(
        low, before, mass_before, high, within, mass_within, pivots, count, mass, goal, by_mass
    )
    while (within - before > ROOM) & (low < high):
        cuts = low + (high - low) // 5 * (tl.arange(0, 4) + 1)
        count, mass, _ = _measure(row_logits, 0, vocab_size, top, temperature, weighs, cuts, TILE)
        low, before, mass_before, high, within, mass_within = _narrow(
            low, before, mass_before, high, within, mass_within, cuts, count, mass, goal, by_mass
        )
    # fmt: on
    if low < high:
        num = _collect(row_logits, vocab_size, top, temperature, low, high, found, ROOM)
        slot = tl.arange(0, ROOM)
        bits = tl.load(found + slot, mask=slot < num, other=0)
        weight = mass_at(bits.to(tl.float32, bitcast=True))
        while low < high:
            middle = low + (high - low) // 2
            inside = (slot < num) & (bits <= middle)
            reached = before + tl.sum(inside.to(tl.int32), 0)
            mass_reached = mass_before + tl.sum(tl.where(inside, weight, 0.0), 0)
            if tl.where(by_mass == 1, mass_reached, reached.to(tl.float64)) >= goal:
                high, within, mass_within = middle, reached, mass_reached
            else:
                low = middle + 1
    return high, within, mass_within


@triton.jit
def _narrow(
    low, before, mass_before, high, within, mass_within, pivots, count, mass, goal, by_mass
):
    """The bracket, cut at each pivot [4] in it; count and mass [4] are what lies within a pivot."""
    inside = (pivots >= low) & (pivots < high)
    enough = tl.where(by_mass == 1, mass, count.to(tl.float64)) >= goal
    above, below = inside & enough, inside & (enough == 0)
    return (
        tl.max(tl.where(below, pivots + 1, low), 0),
        tl.max(tl.where(below, count, before), 0),
        tl.max(tl.where(below, mass, mass_before), 0),
        tl.min(tl.where(above, pivots, high), 0),
        tl.min(tl.where(above, count, within), 0),
        tl.min(tl.where(above, mass, mass_within), 0),
    )


@triton.jit
def _first_pivots(top_k, temperature):
    """Distances [4] that are tried first: probabilities fall with them, and so do raw logits."""
    number = tl.arange(0, 4)
    pivots = tl.where(number < 2, 1.5 + 2.5 * number, 9.0 + 11.0 * (number - 2))
    # Which tokens are the k best does not depend on the temperature.
    scale = tl.where(top_k > 0, temperature, 1.0)
    return tl.div_rn(pivots, scale).to(tl.int32, bitcast=True)


@triton.jit
def _measure(row_logits, begin, end, top, temperature, weighs, pivots, TILE: tl.constexpr):
    """Tokens of [begin, end) within each of the pivots [4], their mass, and all mass."""
    number = tl.arange(0, 4)
    first = tl.sum(tl.where(number == 0, pivots, 0), 0)
    second = tl.sum(tl.where(number == 1, pivots, 0), 0)
    third = tl.sum(tl.where(number == 2, pivots, 0), 0)
    fourth = tl.sum(tl.where(number == 3, pivots, 0), 0)
    count_1 = tl.zeros([TILE], tl.int32)
    count_2, count_3, count_4 = count_1, count_1, count_1
    mass_1 = tl.zeros([TILE], tl.float64)
    mass_2, mass_3, mass_4, total = mass_1, mass_1, mass_1, mass_1
    for start in tl.range(begin, end, TILE, num_stages=4):
        token = start + tl.arange(0, TILE)
        distance = distances(row_logits, token, token < end, top, temperature)
        bits = distance.to(tl.int32, bitcast=True)
        count_1 += (bits <= first).to(tl.int32)
        count_2 += (bits <= second).to(tl.int32)
        count_3 += (bits <= third).to(tl.int32)
        count_4 += (bits <= fourth).to(tl.int32)
        if weighs:
            mass = mass_at(distance)
            mass_1 += tl.where(bits <= first, mass, 0.0)
            mass_2 += tl.where(bits <= second, mass, 0.0)
            mass_3 += tl.where(bits <= third, mass, 0.0)
            mass_4 += tl.where(bits <= fourth, mass, 0.0)
            total += mass
    count = _four(tl.sum(count_1, 0), tl.sum(count_2, 0), tl.sum(count_3, 0), tl.sum(count_4, 0))
    mass = _four(tl.sum(mass_1, 0), tl.sum(mass_2, 0), tl.sum(mass_3, 0), tl.sum(mass_4, 0))
    return count, mass, tl.sum(total, 0)


@triton.jit
def _four(first, second, third, fourth):
    number = tl.arange(0, 4)
    left = tl.where(number == 0, first, second)
    return tl.where(number < 2, left, tl.where(number == 2, third, fourth))


@triton.jit
def _collect(row_logits, vocab_size, top, temperature, low, high, found, TILE: tl.constexpr):
    """Store the bits of all distances in [low, high] at `found`; return how many there are."""
    tl.debug_barrier()  # what was found before has been read
    num = tl.full([], 0, tl.int32)
    for start in range(0, vocab_size, TILE):
        token = start + tl.arange(0, TILE)
        distance = distances(row_logits, token, token < vocab_size, top, temperature)
        bits = distance.to(tl.int32, bitcast=True)
        inside = (token < vocab_size) & (bits >= low) & (bits <= high)
        tl.store(found + num + tl.cumsum(inside.to(tl.int32), 0) - 1, bits, mask=inside)
        num += tl.sum(inside.to(tl.int32), 0)
    tl.debug_barrier()  # all warps have stored theirs
    return num

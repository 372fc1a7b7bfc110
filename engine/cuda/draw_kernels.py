"""Triton kernels that draw tokens. Each is launched by engine.cuda.sampling.

A logit's *distance* is how far it lies below its row's best, divided by the temperature: it is
rounded as the CPU's sampler rounds it, and is never negative, so that its bits, read as an integer,
are in the same order. Whatever decides is compared in float64.
"""

from __future__ import annotations

import triton
import triton.language as tl

MARGIN: tl.constexpr = tl.constexpr(2.0**-10)
"""Scores in float32 that differ by more are in the right order: their errors are below 2**-15."""


@triton.jit
def race(
    logits,
    tops,
    temperatures,
    limits,
    keys,
    places,
    row_stride,
    vocab_size,
    BLOCK: tl.constexpr,
):
    """One split of one row: the token that wins the exponential race within it.

    Float32 finds the winner; only where others come close are they compared in float64.
    """
    row, split = tl.program_id(0), tl.program_id(1)
    token = split * BLOCK + tl.arange(0, BLOCK)
    temperature = tl.load(temperatures + row)
    row_logits = logits + row.to(tl.int64) * row_stride
    distance = distances(row_logits, token, token < vocab_size, tl.load(tops + row), temperature)
    takes_part = (token < vocab_size) & (distance <= tl.load(limits + row))
    score = tl.where(takes_part, -distance, float("-inf"))
    if temperature > 0.0:
        bits = random_bits(tl.load(keys + row), token)
        score -= tl.log(rough_exponential(bits))
        near = score >= tl.max(score, 0) - MARGIN
        if tl.sum(near.to(tl.int32), 0) > 1:
            speeds = tl.where(near & takes_part, speed(distance, bits), -1.0)
            winner = tl.argmax(speeds, 0)
        else:
            winner = tl.argmax(score, 0)
    else:
        winner = tl.argmax(score, 0)
    tl.store(places + row * tl.num_programs(1) + split, split * BLOCK + winner)


@triton.jit
def settle(
    logits,
    tops,
    temperatures,
    limits,
    keys,
    places,
    tokens,
    row_stride,
    num_splits,
    PADDED_SPLITS: tl.constexpr,
):
    """The winner among the winners of a row's splits, in float64; the first of equals."""
    row, split = tl.program_id(0), tl.arange(0, PADDED_SPLITS)
    made = split < num_splits
    token = tl.load(places + row * num_splits + split, mask=made, other=0)
    temperature = tl.load(temperatures + row)
    row_logits = logits + row.to(tl.int64) * row_stride
    distance = distances(row_logits, token, made, tl.load(tops + row), temperature)
    if temperature > 0.0:
        speeds = speed(distance, random_bits(tl.load(keys + row), token))
    else:
        speeds = -distance.to(tl.float64)
    speeds = tl.where(made & (distance <= tl.load(limits + row)), speeds, float("-inf"))
    won = split == tl.argmax(speeds, 0)
    tl.store(tokens + row, tl.sum(tl.where(won, token, 0), 0).to(tl.int64))


@triton.jit
def distances(row_logits, token, inside, top, temperature):
    """Distances of these tokens' logits; infinite where a logit is -inf, or not a number."""
    logit = tl.load(row_logits + token, mask=inside, other=float("-inf"))
    distance = tl.div_rn(top - logit, tl.where(temperature > 0.0, temperature, 1.0))
    return tl.where(distance >= 0.0, distance, float("inf"))


@triton.jit
def mass_at(distance):
    """The probability at a distance, relative to the best token's."""
    return tl.exp(-distance.to(tl.float64))


@triton.jit
def speed(distance, bits):
    """What the race compares, as engine.sampler defines it: probability over noise."""
    uniform = (bits.to(tl.float64) + 0.5) * 2.0**-52
    return mass_at(distance) / -tl.log(uniform)


@triton.jit
def rough_exponential(bits):
    """The same noise in float32, with a relative error below 2**-16 throughout its range."""
    uniform = (bits.to(tl.float32) + 0.5) * 2.0**-52
    rest = ((0xFFFFFFFFFFFFF - bits).to(tl.float32) + 0.5) * 2.0**-52
    series = rest * (1.0 + rest * (0.5 + rest * (0.33333334 + rest * (0.25 + rest * 0.2))))
    return tl.where(rest < 0.0625, series, -tl.log(uniform))


@triton.jit
def random_bits(key, token):
    """52 bits of SplitMix64 with the token as its counter: see engine.sampler.noise."""
    state = key.to(tl.uint64) + (token + 1).to(tl.uint64) * 0x9E3779B97F4A7C15
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB
    return ((state ^ (state >> 31)) >> 12).to(tl.int64)

"""The Triton kernels as operations on tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.cuda import decode_kernels, kernels
from engine.cuda.splits import KEYS, Splits, split_contexts

_GATE_BLOCK = 1024
_TILE_BYTES = 16 << 10
COMBINED = 16
"""Splits that a program combines at a time."""


def add_norm(hidden: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """Add `added`, if any, to `hidden` [rows, size] in place; return the RMS norm of the sum."""
    rows, size = hidden.shape
    normed, padded = torch.empty_like(hidden), _power_of_2(size)
    kernels.add_norm[(rows,)](
        hidden,
        hidden if added is None else added,
        weight,
        normed,
        eps,
        HAS_ADDED=added is not None,
        SIZE=size,
        PADDED=padded,
        num_warps=min(16, max(1, padded // 512)),
    )
    return normed


def gate(gate_up: Tensor) -> Tensor:
    """[rows, 2 * inner] -> silu(gate) * up, [rows, inner]"""
    rows, inner = gate_up.shape[0], gate_up.shape[1] // 2
    gated = gate_up.new_empty(rows, inner)
    grid = rows, -(-inner // _GATE_BLOCK)
    kernels.gate[grid](gate_up, gated, SIZE=inner, BLOCK=_GATE_BLOCK)
    return gated


def rotate_and_store(
    heads: Tensor,
    rotation: tuple[Tensor, Tensor],
    cache: Tensor,
    scales: Tensor | None,
    token_slots: tuple[Tensor, Tensor],
) -> None:
    """Rotate queries among `heads` in place; store rotated keys, and values, in the cache.

    heads [tokens, heads + 2 * kv_heads, head_size], float32 cosines and sines [tokens, 1, half],
    cache [blocks, 2, kv_heads, block_size, head_size] of one layer, float32 scales [blocks, 2,
    kv_heads] if its values have some, blocks and slots [tokens].
    """
    tokens, total, head_size = heads.shape
    num_kv_heads = cache.shape[2]
    kernels.rotate_and_store[(tokens, total)](
        heads,
        *rotation,
        cache,
        cache if scales is None else scales,
        *token_slots,
        cache.stride(0),
        cache.stride(1),
        cache.stride(2),
        0 if scales is None else scales.stride(0),
        NUM_HEADS=total - 2 * num_kv_heads,
        NUM_KV_HEADS=num_kv_heads,
        SCALED=scales is not None,
        HEAD_SIZE=head_size,
        PADDED_HALF=_power_of_2(head_size // 2),
        num_warps=1,
    )


def decode(
    query: Tensor,
    cache: Tensor,
    scales: Tensor | None,
    tables: Tensor,
    positions: Tensor,
    window: int | None,
) -> Tensor:
    """Paged attention of one token a sequence over its context.

    query [rows, heads, head_size], whose rows may lie apart; cache and scales as above; tables
    [width, rows]: a column for each sequence; positions [rows] -> [rows, heads, head_size].
    """
    splits = split_contexts(query, cache, tables, positions, window)
    return decode_split(query, cache, scales, tables, positions, window, splits)


def decode_split(
    query: Tensor,
    cache: Tensor,
    scales: Tensor | None,
    tables: Tensor,
    positions: Tensor,
    window: int | None,
    splits: Splits | None,
) -> Tensor:
    """`decode` with splits that layers with one window share; None keeps each context whole."""
    rows, num_heads, head_size = query.shape
    num_kv_heads, block_size = cache.shape[2], cache.shape[3]
    group = num_heads // num_kv_heads
    output = query.new_empty(rows, num_heads, head_size)
    decode_kernels.decode[(rows if splits is None else splits.capacity, num_kv_heads)](
        query,
        cache,
        cache if scales is None else scales,
        tables,
        positions,
        positions if splits is None else splits.items,
        output,
        output if splits is None else splits.partial,
        output if splits is None else splits.weight,
        math.log2(math.e) / math.sqrt(head_size),
        query.stride(0),
        tables.stride(0),
        tables.stride(1),
        cache.stride(0),
        cache.stride(1),
        cache.stride(2),
        0 if scales is None else scales.stride(0),
        SCALED=scales is not None,
        SPLIT=splits is not None,
        WINDOW=window or 0 if splits is None else 0,  # splits lie within the window
        GROUP=group,
        PADDED_GROUP=max(16, _power_of_2(group)),
        HEAD_SIZE=head_size,
        PADDED_HEAD=max(16, _power_of_2(head_size)),
        BLOCK_SIZE=block_size,
        NUM_KEYS=_num_keys(query),
        # Without tensor cores products take more registers than four warps have.
        num_warps=8 if query.dtype == torch.float32 else 4,
    )
    if splits is not None:
        decode_kernels.combine[(rows, num_heads)](
            splits.firsts,
            splits.partial,
            splits.weight,
            output,
            HEAD_SIZE=head_size,
            PADDED_HEAD=_power_of_2(head_size),
            NUM_ITEMS=COMBINED,
            num_warps=2,
        )
    return output


def write_one(target: Tensor) -> None:
    """Set `target` [1] to 1: a launch that shows whether there can be any."""
    kernels.write_one[(1,)](target)


def _num_keys(query: Tensor) -> int:
    """Keys that a program loads at a time: as many as leave its numbers in registers."""
    key_bytes = _power_of_2(query.shape[-1]) * query.element_size()
    return max(16, min(KEYS, _TILE_BYTES // key_bytes))


def _power_of_2(number: int) -> int:
    return 1 << (number - 1).bit_length()

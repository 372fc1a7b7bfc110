"""Copies blocks into a staging buffer of another layout, and converts their values.

Values saturate: a value that the narrower dtype cannot hold becomes its largest value. NaN stays
NaN. Scales (absmax / 448, one for each block, layer, key/value and head) are computed over the
tokens that are staged, so a block of a scaled dtype must be staged with all its tokens at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kv_transfer.layout.device_checksum import index_on
from kv_transfer.layout.head_routes import CannotExchange, check_exchange, needs_conversion
from wire.layout import SCALED_DTYPES, KvLayout


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Blocks with keys before values: [blocks, layers, 2, heads, token_slots, head_size].

    `scales` are float32 [blocks, layers, 2, heads], and None for dtypes without.
    """

    values: Tensor
    scales: Tensor | None


def stage(
    pool: Tensor, source: KvLayout, staging: KvLayout, blocks: Sequence[int], num_tokens: int
) -> Tensor:
    """The first `num_tokens` tokens of these blocks, in blocks of the staging layout.

    `pool` is uint8 [num_blocks * source.block_bytes], on any device; so is the result, uint8
    [staging blocks * staging.block_bytes], with zeros behind the last token. `staging` comes from
    kv_transfer.layout.reshard.staging_layout. Raises CannotExchange; ValueError when the blocks
    hold fewer tokens.
    """
    check_exchange(source, staging)
    if num_tokens > len(blocks) * source.block_size:
        raise ValueError(f"{len(blocks)} blocks of {source.block_size} hold no {num_tokens} tokens")
    used = index_on(pool.device, blocks[: source.num_blocks(num_tokens)])
    held = _read(pool, source, used, _local_heads(source, staging.heads))
    if needs_conversion(source, staging):
        plain = _reblocked(_descaled(held), staging.block_size, num_tokens)
        return _written(_cast(plain, staging.dtype), staging)
    return _written(_reblocked(held, staging.block_size, num_tokens), staging)


def _local_heads(layout: KvLayout, heads: range) -> slice:
    start = heads.start - layout.first_kv_head
    if start < 0 or heads.stop > layout.heads.stop:
        raise CannotExchange(f"KV heads {heads} are not among the source's {layout.heads}")
    return slice(start, start + len(heads))


def _read(pool: Tensor, layout: KvLayout, blocks: Tensor, heads: slice) -> _Blocks:
    """Gathers these heads of these blocks, and nothing else of the pool."""
    dtype, shape = getattr(torch, layout.dtype), (layout.num_layers, 2, layout.num_kv_heads)
    in_blocks = pool.view(-1, layout.block_bytes)
    values = _bits(in_blocks[:, : layout.value_bytes].view(dtype))
    values = torch.unflatten(values, 1, (*shape, layout.block_size, layout.head_size))
    gathered = values[:, :, :, heads].index_select(0, blocks).view(dtype)
    if not layout.scale_bytes:
        return _keys_first(_Blocks(gathered, None), layout)
    scales = in_blocks[:, layout.value_bytes :].index_select(0, blocks).view(torch.float32)
    return _keys_first(_Blocks(gathered, torch.unflatten(scales, 1, shape)[:, :, :, heads]), layout)


def _written(blocks: _Blocks, layout: KvLayout) -> Tensor:
    """The blocks as the bytes of a pool."""
    ordered = _keys_first(blocks, layout)
    values = ordered.values.contiguous().view(torch.uint8).reshape(-1, layout.value_bytes)
    if ordered.scales is None:
        return values.reshape(-1)
    scales = ordered.scales.contiguous().view(torch.uint8).reshape(-1, layout.scale_bytes)
    return torch.cat([values, scales], dim=1).reshape(-1)


def _keys_first(blocks: _Blocks, layout: KvLayout) -> _Blocks:
    """Exchanges keys and values where the layout has values first; its own inverse."""
    if layout.kv_order == "kv":
        return blocks
    scales = None if blocks.scales is None else blocks.scales.flip(2)
    return _Blocks(_bits(blocks.values).flip(2).view(blocks.values.dtype), scales)


def _reblocked(blocks: _Blocks, block_size: int, num_tokens: int) -> _Blocks:
    """The first `num_tokens` tokens in blocks of another size, with zeros behind the last.

    A block's scales are repeated for all blocks that it is divided into.
    """
    token_slots = blocks.values.shape[4]
    bits = _bits(blocks.values).permute(1, 2, 3, 0, 4, 5)
    tokens = bits.flatten(3, 4)[..., :num_tokens, :]
    num_blocks = -(-num_tokens // block_size)
    padding = (0, 0, 0, num_blocks * block_size - num_tokens)
    padded = torch.unflatten(torch.nn.functional.pad(tokens, padding), 3, (num_blocks, block_size))
    values = padded.permute(3, 0, 1, 2, 4, 5).contiguous().view(blocks.values.dtype)
    if blocks.scales is None:
        return _Blocks(values, None)
    scales = blocks.scales.repeat_interleave(token_slots // block_size, dim=0)
    return _Blocks(values, scales[:num_blocks])


def _descaled(blocks: _Blocks) -> _Blocks:
    if blocks.scales is None:
        return blocks
    return _Blocks(blocks.values.float() * blocks.scales[..., None, None], None)


def _cast(blocks: _Blocks, dtype: str) -> _Blocks:
    """Unscaled blocks as another dtype."""
    if dtype in SCALED_DTYPES:
        return _quantized(blocks.values.float(), getattr(torch, dtype))
    wanted = getattr(torch, dtype)
    limit = torch.finfo(wanted).max
    return _Blocks(blocks.values.to(wanted).clamp(-limit, limit), None)


def _quantized(values: Tensor, dtype: torch.dtype) -> _Blocks:
    """float32 values, scaled so that each strip's largest becomes the largest of `dtype`."""
    limit = torch.finfo(dtype).max
    largest = values.abs().nan_to_num(nan=0.0).amax(dim=(-2, -1))
    scales = (largest / limit).clamp_min(torch.finfo(torch.float32).tiny)
    scaled = (values / scales[..., None, None]).clamp(-limit, limit)
    return _Blocks(scaled.to(dtype), scales)


def _bits(values: Tensor) -> Tensor:
    """A view of the memory as integers: torch cannot move all dtypes, but it moves integers."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return values.view(integers[values.element_size()])


MIN_GRANULE = 4
"""Least tokens in the smaller block for `regroup`: below, gathering all tokens is cheaper."""

_WORDS = ((8, torch.int64), (4, torch.int32), (2, torch.int16), (1, torch.uint8))


def can_regroup(source: KvLayout, staging: KvLayout) -> bool:
    """Whether no values are converted, and blocks are large enough for `regroup` to pay."""
    small = min(source.block_size, staging.block_size) < MIN_GRANULE
    return not (small or source.scale_bytes or needs_conversion(source, staging))


def regroup(
    pool: Tensor,
    source: KvLayout,
    staging: KvLayout,
    blocks: Sequence[int],
    num_tokens: int,
    target: Tensor,
) -> None:
    """Write the first `num_tokens` tokens of these blocks to `target`, in the staging layout.

    `pool` and `target` are uint8 [bytes], the latter of exactly the blocks that hold the tokens;
    zeros are written behind the last token. Copies one granule, the smaller of the two blocks, at
    a time: these are long runs, which torch moves as fast as memory allows.
    """
    first = staging.first_kv_head - source.first_kv_head
    ours = _in_blocks(pool, source)[:, :, :, first : first + staging.num_kv_heads]
    theirs = _in_blocks(target, staging)
    swapped = source.kv_order != staging.kv_order
    kinds = ((0, 1), (1, 0)) if swapped else ((slice(None), slice(None)),)
    granule = min(source.block_size, staging.block_size)
    for start in range(0, num_tokens, granule):
        count = min(granule, num_tokens - start)
        block, token_slot = divmod(start, source.block_size)
        staged_block, staged_slot = divmod(start, staging.block_size)
        for here, there in kinds:
            strips = ours[blocks[block], :, here, :, token_slot : token_slot + count]
            theirs[staged_block, :, there, :, staged_slot : staged_slot + count] = strips
    theirs[-1, ..., (num_tokens - 1) % staging.block_size + 1 :, :] = 0


def _in_blocks(memory: Tensor, layout: KvLayout) -> Tensor:
    """A view [blocks, layers, 2, heads, token_slots, words] in the largest words that fit a row."""
    row = layout.token_bytes // (2 * layout.num_layers * layout.num_kv_heads)
    words = next(dtype for size, dtype in _WORDS if row % size == 0)
    shape = (-1, layout.num_layers, 2, layout.num_kv_heads, layout.block_size)
    return memory.view(words).view(*shape, row // words.itemsize)

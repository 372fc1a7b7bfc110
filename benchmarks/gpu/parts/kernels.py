"""The Triton kernels against PyTorch's operations; on a CPU in Triton's interpreter."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu import formulas
from benchmarks.gpu.context import Context, guarded
from benchmarks.gpu.draws import KINDS, drawing_sequences
from benchmarks.gpu.finding import Finding, check, skipped
from benchmarks.gpu.needs import why_missing
from engine.model.rope import rotate
from engine.sampler.sampler import Sampler
from kv_transfer.layout.checksum import MASK
from kv_transfer.layout.device_checksum import add_by_torch

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Largest difference relative to the largest value: a few roundings."""
BLOCK_SIZE = 16
WINDOWS = (None, 20)
DRAWN_ELSEWHERE = {"greedy", "penalties"}
"""Kinds that come before the kernels, or without them; part `host` has them."""


@dataclass(frozen=True, slots=True)
class Heads:
    """How many, and how large; `name` is a model that has them."""

    name: str
    heads: int
    kv_heads: int
    head_size: int


@dataclass(frozen=True, slots=True)
class Size:
    dtypes: tuple[torch.dtype, ...]
    rows: int
    hidden: int
    inner: int
    heads: tuple[Heads, ...]
    ends: tuple[int, ...]
    """Lengths of the sequences of a decode step."""
    vocab_size: int
    checked_blocks: tuple[int, int]
    """Blocks that a checksum covers, and words of each; they are added up in several launches."""


GPU = Size(
    (torch.float32, torch.bfloat16),
    7,
    4096,
    14336,
    (Heads("8B", 32, 8, 128), Heads("1B", 32, 8, 64), Heads("odd", 4, 4, 24)),
    (1, 16, 17, 100, 1000, 5000),
    128256,
    (40, 1 << 18),
)
CPU = Size((torch.float32,), 2, 96, 160, (Heads("tiny", 4, 2, 16),), (1, 17, 40), 300, (3, 70))


def run(context: Context) -> Iterator[Finding]:
    if (reason := why_missing("triton")) is not None:
        yield skipped("Triton kernels", reason)
        return
    size = GPU if context.on_gpu else CPU
    for dtype in size.dtypes:
        name = str(dtype).removeprefix("torch.")
        yield from guarded(context, f"norm, {name}", lambda d=dtype: _norm(context, size, d))
        yield from guarded(context, f"gate, {name}", lambda d=dtype: _gate(context, size, d))
        for heads in size.heads:
            yield from guarded(
                context,
                f"attention {heads.name}, {name}",
                lambda d=dtype, h=heads: _attention(context, size, h, d),
            )
    for kind in KINDS:
        if kind not in DRAWN_ELSEWHERE:
            yield from guarded(context, f"draws, {kind}", lambda k=kind: _draws(context, size, k))
    yield from guarded(context, "checksum", lambda: _checksum(context, size))


def _checked(name: str, found: Tensor, expected: Tensor) -> Finding:
    error, dtype = formulas.relative_error(found, expected), found.dtype
    label = f"{name}, {str(dtype).removeprefix('torch.')}"
    return check(label, error <= TOLERANCE[dtype], f"off by {error:.1e}", error=error)


def _norm(context: Context, size: Size, dtype: torch.dtype) -> Iterator[Finding]:
    from engine.cuda import operations

    made = torch.randn(2, size.rows, size.hidden, dtype=dtype, device=context.device)
    weight = torch.randn(size.hidden, dtype=dtype, device=context.device)
    hidden, added = made
    total = hidden + added
    expected = functional.rms_norm(total.float(), (size.hidden,), weight.float(), 1e-5)
    yield _checked("norm", operations.add_norm(hidden, added, weight, 1e-5), expected)
    yield _checked("norm's sum", hidden, total)


def _gate(context: Context, size: Size, dtype: torch.dtype) -> Iterator[Finding]:
    from engine.cuda import operations

    gate_up = torch.randn(size.rows, 2 * size.inner, dtype=dtype, device=context.device)
    gate, up = gate_up.float().chunk(2, dim=-1)
    yield _checked("gate", operations.gate(gate_up), functional.silu(gate) * up)


def _attention(context: Context, size: Size, heads: Heads, dtype: torch.dtype) -> Iterator[Finding]:
    """Rotation and storing, and then attention of one token a sequence over what was stored."""
    from engine.cuda import operations

    torch.manual_seed(0)
    given = _given(context, size, heads, dtype)
    tables, cache, fused, rotation = given.tables, given.cache, given.fused, given.rotation
    num, kv = heads.heads, heads.kv_heads
    query, key = (rotate(part.float(), rotation) for part in fused.split((num, kv, kv), 1)[:2])
    value = fused[:, num + kv :].clone()
    positions = torch.tensor(size.ends, device=context.device) - 1
    places = tables.gather(0, (positions // BLOCK_SIZE)[None])[0].long(), positions % BLOCK_SIZE
    operations.rotate_and_store(fused, rotation, cache, None, places)
    yield _checked(f"{heads.name} query", fused[:, :num], query)
    yield _checked(f"{heads.name} key", cache[places[0], 0, :, places[1]], key)
    yield _checked(f"{heads.name} value", cache[places[0], 1, :, places[1]], value)
    for window in WINDOWS:
        found = operations.decode(fused[:, :num], cache, None, tables, positions, window)
        expected = [
            formulas.attention(fused[row : row + 1, :num], cache, blocks, end - 1, window)
            for row, (end, blocks) in enumerate(zip(size.ends, given.blocks, strict=True))
        ]
        name = f"{heads.name} attention" + ("" if window is None else f", window {window}")
        yield _checked(name, found, torch.cat(expected))


def _draws(context: Context, size: Size, kind: str) -> Iterator[Finding]:
    """Tokens that the kernels draw are those of PyTorch's operations on a CPU."""
    from engine.sampler.device_draw import draw_on_device

    torch.manual_seed(0)
    logits = 3 * torch.randn(size.rows, size.vocab_size)
    sequences = drawing_sequences(size.rows, kind)
    found = draw_on_device(logits.to(context.device), sequences).tolist()
    drawn = Sampler(frozenset()).sample(logits, sequences)
    same = sum(ours == theirs.token for ours, theirs in zip(found, drawn, strict=True))
    yield check(f"draws, {kind}", same == size.rows, f"{same} of {size.rows} tokens")


def _checksum(context: Context, size: Size) -> Iterator[Finding]:
    """The kernel adds up what Python's integers do, and flipped bits and swaps change it."""
    from kv_transfer.layout.checksum_kernel import add_by_triton

    count, num_words = size.checked_blocks
    memory = torch.randint(-(2**62), 2**62, (count + 2, num_words), device=context.device)
    order = torch.randperm(count + 2)[:count].tolist()

    def found(blocks: list[int]) -> int:
        total = torch.zeros(1, dtype=torch.int64, device=context.device)
        add_by_triton(total, memory, torch.tensor([5, *blocks], device=context.device))
        return int(total.item()) & MASK

    first = found(order)
    expected = torch.zeros(1, dtype=torch.int64)
    add_by_torch(expected, memory.cpu(), torch.tensor([5, *order]))
    text = f"{count * num_words * 8 / 1e6:.1f} MB"
    yield check("checksum", first == int(expected.item()) & MASK, text)
    swapped = found([order[1], order[0], *order[2:]])
    memory[order[-1], -1] ^= 1
    yield check("checksum, faults", len({first, swapped, found(order)}) == 3, "a swap, a bit")


@dataclass(frozen=True, slots=True)
class _Given:
    fused: Tensor
    rotation: tuple[Tensor, Tensor]
    cache: Tensor
    tables: Tensor
    blocks: list[list[int]]


def _given(context: Context, size: Size, heads: Heads, dtype: torch.dtype) -> _Given:
    """A decode step whose sequences' blocks are anywhere in the second of two layers."""
    counts = [-(-end // BLOCK_SIZE) for end in size.ends]
    order = list(range(sum(counts)))
    random.Random(0).shuffle(order)
    blocks = [[order.pop() for _ in range(count)] for count in counts]
    tables = torch.zeros(max(counts) + 3, len(counts), dtype=torch.int32)
    for row, table in enumerate(blocks):
        tables[: len(table), row] = torch.tensor(table)
    device, rows, half = context.device, len(counts), heads.head_size // 2
    shape = sum(counts), 2, 2, heads.kv_heads, BLOCK_SIZE, heads.head_size
    total = heads.heads + 2 * heads.kv_heads
    angles = torch.rand(rows, 1, half, device=device) * 6
    return _Given(
        torch.randn(rows, total, heads.head_size, dtype=dtype, device=device),
        (angles.cos(), angles.sin()),
        torch.randn(shape, dtype=dtype, device=device)[:, 1],
        tables.to(device),
        blocks,
    )

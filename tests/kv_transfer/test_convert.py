import random

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kv_transfer.layout.convert import regroup, stage
from kv_transfer.layout.head_routes import CannotExchange
from kv_transfer.layout.reshard import plan, staging_layout
from tests.kv_transfer.ranks import block_ids, model_pairs, ranks, scale_addresses, strip_addresses
from tests.kv_transfer.ranks import strips as all_strips
from wire.layout import KvLayout

pytestmark = pytest.mark.quick

FLOATS = ("float32", "bfloat16", "float16", "float8_e4m3fn")
STEP = {"float32": 0.0, "bfloat16": 2**-8, "float16": 2**-11, "float8_e4m3fn": 2**-4}
"""Half the distance between neighbouring values, relative to the value."""

MODEL = KvLayout(num_layers=2, num_kv_heads=2, head_size=4, block_size=4, dtype="float32")


def like(layout: KvLayout, **changes: object) -> KvLayout:
    return msgspec.structs.replace(layout, **changes)


def random_pool(layout: KvLayout, num_blocks: int, seed: int) -> Tensor:
    """A pool of sensible values: normal ones, each strip of another magnitude."""
    generator = torch.Generator().manual_seed(seed)
    dense = like(layout, dtype="float32")
    shape = (num_blocks, layout.num_layers * 2 * layout.num_kv_heads, 1)
    values = torch.randn(
        num_blocks, shape[1], dense.value_bytes // 4 // shape[1], generator=generator
    )
    magnitudes = torch.empty(shape).uniform_(-6, 6, generator=generator).exp2()
    pool = (values * magnitudes).flatten().view(torch.uint8)
    if layout.dtype == "float32":
        return pool
    return stage(pool, dense, layout, range(num_blocks), num_blocks * layout.block_size)


def strip_values(pool: Tensor, layout: KvLayout, block: int, strip: tuple[int, str, int]) -> Tensor:
    """What a strip's values mean, float32 [slots, head_size]; read by address."""
    places = strip_addresses(layout, block, *strip)
    stored = pool[places.start : places.stop].clone().view(getattr(torch, layout.dtype)).float()
    scale = scale_addresses(layout, block, *strip)
    if len(scale):
        stored = stored * pool[scale.start : scale.stop].clone().view(torch.float32)
    return stored.view(layout.block_size, layout.head_size)


def token_values(pool: Tensor, layout: KvLayout, blocks: list[int], heads: range) -> Tensor:
    """float32 [tokens, strips, head_size]; keys before values, whatever the layout's order."""
    return torch.cat(
        [
            torch.stack(
                [strip_values(pool, layout, block, strip) for strip in all_strips(layout, heads)], 1
            )
            for block in blocks
        ]
    )


def strip_maxima(pool: Tensor, layout: KvLayout, blocks: list[int], heads: range) -> Tensor:
    """For each token the largest value of its block's strip: [tokens, strips, 1]."""
    tokens = token_values(pool, layout, blocks, heads)
    per_block = tokens.unflatten(0, (len(blocks), layout.block_size)).abs().amax(dim=(1, 3))
    return per_block.repeat_interleave(layout.block_size, 0)[..., None]


@given(st.data(), model_pairs(), st.sampled_from(FLOATS), st.sampled_from(FLOATS))
@settings(max_examples=120)
def test_staged_values_are_as_close_as_their_dtypes_allow(
    data: st.DataObject, models: tuple[KvLayout, KvLayout], from_dtype: str, to_dtype: str
) -> None:
    source, model = like(models[0], dtype=from_dtype), like(models[1], dtype=to_dtype)
    target = data.draw(st.sampled_from(ranks(model, data.draw(st.sampled_from([1, 2, 4])))))
    num_tokens = data.draw(st.integers(1, 2 * max(source.block_size, target.block_size)))
    pool_blocks = source.num_blocks(num_tokens) + 1
    pool = random_pool(source, pool_blocks, data.draw(st.integers(0, 2**31)))
    blocks = data.draw(block_ids(source, num_tokens, pool_blocks))
    staging = staging_layout(target, target.heads)

    staged = stage(pool, source, staging, blocks, num_tokens)

    remote_blocks = list(range(staging.num_blocks(num_tokens)))
    assert staged.dtype == torch.uint8
    assert len(staged) == len(remote_blocks) * staging.block_bytes
    found = token_values(staged, staging, remote_blocks, staging.heads)
    wanted = token_values(pool, source, blocks, staging.heads)[:num_tokens]
    assert not found[num_tokens:].any()
    if from_dtype == to_dtype != "float8_e4m3fn":
        assert torch.equal(found[:num_tokens], wanted)
        return
    scaled = to_dtype == "float8_e4m3fn"
    bound = (
        strip_maxima(staged, staging, remote_blocks, staging.heads)[:num_tokens]
        if scaled
        else wanted
    )
    assert ((found[:num_tokens] - wanted).abs() <= 1.1 * STEP[to_dtype] * bound.abs() + 1e-7).all()


@given(st.data(), st.sampled_from(FLOATS), st.sampled_from(FLOATS))
@settings(max_examples=60)
def test_there_and_back_stays_within_the_coarser_step(
    data: st.DataObject, from_dtype: str, to_dtype: str
) -> None:
    source, target = like(MODEL, dtype=from_dtype), like(MODEL, dtype=to_dtype, kv_order="vk")
    pool = random_pool(source, 3, data.draw(st.integers(0, 2**31)))
    there = stage(pool, source, target, range(3), 12)
    back = stage(there, target, source, range(3), 12)
    found = token_values(back, source, [0, 1, 2], source.heads)
    wanted = token_values(pool, source, [0, 1, 2], source.heads)
    step = STEP[from_dtype] + STEP[to_dtype]
    limits = strip_maxima(pool, source, [0, 1, 2], source.heads)
    assert ((found - wanted).abs() <= 1.1 * step * limits + 1e-7).all()
    assert ((found - wanted).abs() <= 2**-3 * limits + 1e-7).all()


@given(st.data(), model_pairs(), st.sampled_from(FLOATS))
@settings(max_examples=60)
def test_staging_and_then_writing_gives_what_writing_gives(
    data: st.DataObject, models: tuple[KvLayout, KvLayout], dtype: str
) -> None:
    source, destination = (like(model, dtype=dtype) for model in models)
    if dtype == "float8_e4m3fn" and source.block_size < destination.block_size:
        source, destination = destination, source
    num_tokens = data.draw(st.integers(1, 2 * max(source.block_size, destination.block_size)))
    blocks = data.draw(block_ids(source, num_tokens, source.num_blocks(num_tokens) + 2))
    remote_blocks = data.draw(
        block_ids(destination, num_tokens, destination.num_blocks(num_tokens) + 2)
    )
    pool = random_pool(source, max(blocks) + 1, data.draw(st.integers(0, 2**31)))

    written = torch.zeros((max(remote_blocks) + 1) * destination.block_bytes, dtype=torch.uint8)
    direct = written.clone()
    copy(pool, direct, plan(source, destination).spans(blocks, remote_blocks, num_tokens).tolist())
    staging = staging_layout(destination, source.heads)
    staged = stage(pool, source, staging, blocks, num_tokens)
    held = range(staging.num_blocks(num_tokens))
    copy(
        staged, written, plan(staging, destination).spans(held, remote_blocks, num_tokens).tolist()
    )
    assert torch.equal(direct, written)


def copy(source: Tensor, destination: Tensor, spans: list[list[int]]) -> None:
    for start, end, count in spans:
        destination[end : end + count] = source[start : start + count]


def one_strip(values: list[float], dtype: str) -> tuple[Tensor, KvLayout]:
    layout = KvLayout(1, 1, len(values) // 2, 1, dtype)
    return torch.tensor(values, dtype=getattr(torch, dtype)).view(torch.uint8), layout


@pytest.mark.parametrize(("dtype", "largest"), [("float16", 65504.0), ("bfloat16", 3.3895e38)])
def test_what_does_not_fit_becomes_the_largest(dtype: str, largest: float) -> None:
    pool, layout = one_strip([3.4e38, -3.4e38, float("inf"), float("nan"), 1.0, 0.0], "float32")
    staged = stage(pool, layout, like(layout, dtype=dtype), [0], 1).view(getattr(torch, dtype))
    wanted = torch.tensor([largest, -largest, largest, float("nan"), 1.0, 0.0])
    torch.testing.assert_close(staged.float(), wanted, rtol=1e-3, atol=0, equal_nan=True)


@pytest.mark.parametrize("tiny", [0.0, 1e-45, 1e-38, 1.0, 3.4e38])
def test_scales_hold_for_every_magnitude(tiny: float) -> None:
    pool, layout = one_strip([tiny, -tiny, tiny / 2, 0.0], "float32")
    eighths = like(layout, dtype="float8_e4m3fn")
    back = stage(stage(pool, layout, eighths, [0], 1), eighths, layout, [0], 1).view(torch.float32)
    torch.testing.assert_close(back, pool.view(torch.float32), rtol=2**-4, atol=1e-39)


def test_a_value_that_is_no_number_spoils_no_other() -> None:
    pool, layout = one_strip([float("nan"), 2.0, 1.0, -1.0], "float32")
    eighths = like(layout, dtype="float8_e4m3fn")
    back = stage(stage(pool, layout, eighths, [0], 1), eighths, layout, [0], 1).view(torch.float32)
    assert back[0].isnan()
    torch.testing.assert_close(back[1:], torch.tensor([2.0, 1.0, -1.0]))


def test_eight_bit_blocks_in_smaller_ones_keep_every_bit() -> None:
    source = like(MODEL, dtype="float8_e4m3fn")
    target = like(source, block_size=2)
    pool = random_pool(source, 2, seed=1)
    staged = stage(pool, source, target, [1, 0], 8)
    found = token_values(staged, target, [0, 1, 2, 3], target.heads)
    assert torch.equal(found, token_values(pool, source, [1, 0], source.heads))


def test_staging_asks_for_what_is_there() -> None:
    pool = random_pool(MODEL, 2, seed=0)
    with pytest.raises(ValueError, match="hold no 9 tokens"):
        stage(pool, MODEL, MODEL, [0, 1], 9)
    left, right = ranks(MODEL, 2)
    with pytest.raises(CannotExchange, match="not among the source's"):
        stage(random_pool(left, 1, seed=0), left, right, [0], 4)
    with pytest.raises(CannotExchange, match="num_layers"):
        stage(pool, MODEL, like(MODEL, num_layers=3), [0], 4)


@given(
    model_pairs(),
    st.sampled_from(["float32", "bfloat16", "int64"]),
    st.integers(1, 40),
    st.randoms(use_true_random=False),
)
@settings(max_examples=150)
def test_regrouping_gives_the_bytes_of_staging(
    pair: tuple[KvLayout, KvLayout], dtype: str, num_tokens: int, draw: random.Random
) -> None:
    source, destination = (like(layout, dtype=dtype) for layout in pair)
    first = draw.randrange(source.num_kv_heads)
    wanted = staging_layout(destination, source.heads[first:])
    blocks = draw.sample(range(50), source.num_blocks(num_tokens))
    pool = torch.randint(0, 255, (50 * source.block_bytes,), dtype=torch.uint8)
    target = torch.full(
        (wanted.num_blocks(num_tokens) * wanted.block_bytes,), 255, dtype=torch.uint8
    )
    regroup(pool, source, wanted, blocks, num_tokens, target)
    assert torch.equal(target, stage(pool, source, wanted, blocks, num_tokens))

"""A real model decodes after a transfer between layouts as it would have without one."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from itertools import permutations, product

import msgspec
import pytest
import torch
from torch import Tensor

from engine.runner import OnLayer, Outcome, Slice
from kv_transfer.endpoints.write_path import InPlaceWrites, WritePart
from kv_transfer.transports.transport import Transport
from tests.kv_transfer.pools import GARBAGE, Pool, move
from tests.worker.bench import Bench
from tests.worker.models import (
    MAX_TOKENS,
    NUM_OUTPUT,
    PROMPT,
    Model,
    continued,
    scattered,
)
from wire.messages import Handed
from wire.sampling import SamplingParams
from worker.steps import block_sender
from worker.steps.step_context import Peer

SIZES = (4, 16, 64)
DTYPES = ("float32", "bfloat16", "float16")
GREEDY = SamplingParams(max_tokens=NUM_OUTPUT, temperature=0.0, ignore_eos=True)

every_size_pair = pytest.mark.parametrize(
    ("block_size", "remote_block_size"), list(product(SIZES, repeat=2))
)


def handed_over(model: Model, ours: tuple[str, int], theirs: tuple[str, int]) -> list[int]:
    """The prompt's answer when one worker prefills and another, of that layout, decodes."""
    bench = Bench(
        num_blocks=MAX_TOKENS // ours[1],
        decode_blocks=MAX_TOKENS // theirs[1],
        prefill_runner=model.runner(*ours),
        decode_runner=model.runner(*theirs),
        chunk_tokens=24,
    )
    for station in bench.stations:
        memory = station.memory.keepalive
        assert isinstance(memory, Tensor)
        memory.fill_(GARBAGE)
    attempt_id = bench.submit("a", list(PROMPT), sampling=GREEDY)
    bench.run()
    (handed,) = bench.told(Handed)
    assert isinstance(handed, Handed)
    assert handed.moved.num_blocks == bench.decode.runner.layout.num_blocks(len(PROMPT))
    bench.check_nothing_is_held()
    return bench.tokens(attempt_id)


@pytest.mark.parametrize("dtype", DTYPES)
@every_size_pair
def test_tokens_are_those_of_one_worker_alone(
    model: Model, dtype: str, block_size: int, remote_block_size: int
) -> None:
    tokens = handed_over(model, (dtype, block_size), (dtype, remote_block_size))
    assert tokens == model.alone(dtype, block_size) == model.alone(dtype, remote_block_size)
    assert len(set(tokens)) > 8


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int] | None]:
    """Which layers each write took, in their order; every layer is worth a write of its own."""
    layers: list[tuple[int, int] | None] = []
    post = InPlaceWrites.try_post

    def noted(self: InPlaceWrites, transport: Transport, part: WritePart) -> bool:
        layers.append(part.block_write.layers)
        return post(self, transport, part)

    monkeypatch.setattr(block_sender, "MIN_WRITE_BYTES", 1)
    monkeypatch.setattr(InPlaceWrites, "try_post", noted)
    return layers


def test_tokens_are_the_same_when_the_last_chunk_leaves_layer_by_layer(
    model: Model, left: list[tuple[int, int] | None]
) -> None:
    assert handed_over(model, ("float32", 4), ("float32", 4)) == model.alone("float32", 4)
    assert left[0] is None
    assert left[-2:] == [(0, 1), (1, 2)]


def test_a_prompt_of_one_chunk_leaves_while_it_is_computed(
    model: Model, left: list[tuple[int, int] | None]
) -> None:
    runner = model.runner("float32", 4)
    bench = Bench(
        num_blocks=MAX_TOKENS // 4,
        prefill_runner=runner,
        decode_runner=model.runner("float32", 4),
        chunk_tokens=MAX_TOKENS,
    )
    run = runner.run

    def run_late(slices: Seq[Slice], on_layer: OnLayer | None = None) -> list[Outcome]:
        """By the first layer, the destination has answered."""
        bench.deliver()
        bench.decode.loop.turn()
        for link, message in bench.decode.outbox.for_peers:
            bench.prefill.loop.on_peer_message(message, Peer(bench.decode.ref, link))
        bench.decode.outbox.for_peers.clear()
        return run(slices, on_layer)

    runner.run = run_late  # type: ignore[method-assign]
    attempt_id = bench.submit("a", list(PROMPT), sampling=GREEDY)
    bench.run()
    assert bench.tokens(attempt_id) == model.alone("float32", 4)
    assert sorted(left, key=str) == [(0, 1), (1, 2)]
    bench.check_nothing_is_held()


@pytest.mark.parametrize(("dtype", "other"), list(permutations(DTYPES, 2)))
@every_size_pair
def test_tokens_are_those_of_a_cache_that_was_merely_cast(
    model: Model, dtype: str, other: str, block_size: int, remote_block_size: int
) -> None:
    tokens = handed_over(model, (dtype, block_size), (other, remote_block_size))
    assert tokens == model.converted(dtype, other, remote_block_size)


@pytest.mark.parametrize("narrow", ["bfloat16", "float16"])
@every_size_pair
def test_widening_and_back_loses_no_bit(
    model: Model, narrow: str, block_size: int, remote_block_size: int
) -> None:
    cache = model.prefilled(narrow).cache
    source = a_pool(model, narrow, block_size)
    wide = a_pool(model, "float32", remote_block_size, kv_order="vk")
    back = a_pool(model, narrow, block_size)
    blocks, remote_blocks = scattered(source), scattered(wide)
    source.put(blocks, cache)
    move(source, blocks, wide, remote_blocks, len(PROMPT))
    assert torch.equal(wide.get(remote_blocks, len(PROMPT)), cache.float())
    move(wide, remote_blocks, back, blocks, len(PROMPT))
    assert torch.equal(back.get(blocks, len(PROMPT)), cache)


@pytest.mark.parametrize(
    ("dtype", "order"),
    [("float32", "vk"), ("bfloat16", "kv"), ("float16", "vk")],
)
@every_size_pair
def test_an_eight_bit_cache_gives_the_tokens_of_its_numbers_times_their_scales(
    model: Model, dtype: str, order: str, block_size: int, remote_block_size: int
) -> None:
    first, cache = model.prefilled("float32")
    source = a_pool(model, "float8_e4m3fn", block_size, kv_order=order)
    blocks = scattered(source)
    put_scaled(source, blocks, cache)
    runner = model.runner(dtype, remote_block_size)
    destination = model.pool(runner)
    remote_blocks = scattered(destination)

    move(source, blocks, destination, remote_blocks, len(PROMPT))

    plain = source.get(blocks, len(PROMPT)).to(getattr(torch, dtype))
    assert continued(runner, remote_blocks, first) == model.decoded(
        plain, dtype, remote_block_size, first
    )


def a_pool(model: Model, dtype: str, block_size: int, **changes: object) -> Pool:
    """A pool for blocks of the model; no runner needs to know its dtype."""
    layout = msgspec.structs.replace(model.layout, dtype=dtype, block_size=block_size, **changes)
    return Pool(layout, MAX_TOKENS // block_size)


def put_scaled(pool: Pool, blocks: list[int], cache: Tensor) -> None:
    """Block by block, each layer's, kind's and head's largest number as the largest there is."""
    dtype = getattr(torch, pool.layout.dtype)
    for block, tokens in zip(blocks, cache.split(pool.layout.block_size), strict=False):
        scales = tokens.abs().amax(dim=(0, 4)) / torch.finfo(dtype).max
        pool.put([block], (tokens / scales[..., None]).to(dtype))
        pool.put_scales(block, scales)


@pytest.mark.parametrize("kind", [0, 1])
def test_a_model_shows_in_its_tokens_when_one_head_of_one_block_is_lost(
    model: Model, kind: int
) -> None:
    """Otherwise equal tokens would prove little."""
    first, cache = model.prefilled("float32")
    damaged = cache.clone()
    damaged[16:32, 1, kind, 2] = 0
    tokens = model.decoded(damaged, "float32", 16, first)
    assert tokens != model.alone("float32", 16)

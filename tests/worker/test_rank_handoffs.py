"""The ride of a request between workers of several ranks each, in one process and one thread."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count, product

import pytest

from kv_transfer.endpoints.write_path import InPlaceWrites, WritePart
from kv_transfer.layout.spans import Offsets
from kv_transfer.transports.memory import MemoryFabric
from kv_transfer.transports.nixl.nixl_transport import NixlTransport
from kv_transfer.transports.transport import Transport
from tests.worker.bench import Bench
from tests.worker.models import MAX_TOKENS, NUM_OUTPUT, PROMPT, Model
from tests.worker.spread_runner import SpreadRunner
from wire.identity import AttemptId
from wire.messages import CopyPrefix, Handed, Kept
from wire.sampling import SamplingParams
from worker.steps import block_sender

DEGREES = (1, 2, 4)
PAIRS = list(product(DEGREES, repeat=2))
UNEQUAL = [(1, 2), (2, 1), (2, 4), (4, 2)]
SIZES = [(16, 16), (4, 16), (16, 4)]
GREEDY = SamplingParams(max_tokens=NUM_OUTPUT, temperature=0.0, ignore_eos=True)

every_pair = pytest.mark.parametrize(("degree", "other"), PAIRS)
unequal_pairs = pytest.mark.parametrize(("degree", "other"), UNEQUAL)
every_size_pair = pytest.mark.parametrize(("block_size", "remote_block_size"), SIZES)


def a_bench(
    model: Model,
    degrees: tuple[int, int],
    sizes: tuple[int, int] = (16, 16),
    **fields: object,
) -> Bench:
    runners = [
        SpreadRunner(model.runner("float32", size), degree)
        for degree, size in zip(degrees, sizes, strict=True)
    ]
    return Bench(
        num_blocks=MAX_TOKENS // sizes[0],
        decode_blocks=MAX_TOKENS // sizes[1],
        prefill_runner=runners[0],  # type: ignore[arg-type]
        decode_runner=runners[1],  # type: ignore[arg-type]
        chunk_tokens=24,
        **fields,  # type: ignore[arg-type]
    )


def over_nixl() -> Callable[[str], Transport]:
    numbers = count()

    def make(name: str) -> Transport:
        return NixlTransport(f"{name} {os.getpid()} {next(numbers)}", {"UCX_NET_DEVICES": "lo"})

    return make


def handed(bench: Bench) -> Handed:
    message = bench.told(Handed)[-1]
    assert isinstance(message, Handed)
    return message


def is_answered(bench: Bench, model: Model, remote_block_size: int) -> None:
    attempt_id = bench.submit("a", list(PROMPT), sampling=GREEDY)
    while not all(station.at_rest for station in bench.stations):
        bench.turn()
    assert bench.tokens(attempt_id) == model.alone("float32", remote_block_size)
    moved, layout = handed(bench).moved, bench.decode.endpoint.layout
    assert moved.num_blocks == layout.num_blocks(len(PROMPT))
    assert moved.num_bytes == moved.num_blocks * layout.block_bytes
    bench.check_nothing_is_held()


@every_size_pair
@every_pair
def test_tokens_are_those_of_one_worker_alone(
    model: Model, degree: int, other: int, block_size: int, remote_block_size: int
) -> None:
    bench = a_bench(model, (degree, other), (block_size, remote_block_size))
    is_answered(bench, model, remote_block_size)


@every_pair
def test_over_nixl_they_are_too(model: Model, degree: int, other: int) -> None:
    sizes = (16, 16) if degree == other else (4, 16)
    bench = a_bench(model, (degree, other), sizes, make_transport=over_nixl())
    is_answered(bench, model, 16)
    for station in bench.stations:
        for rank in station.ranks:
            rank._transport.close()


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


@pytest.mark.parametrize("degree", [2, 4])
def test_the_last_chunk_leaves_layer_by_layer_from_every_rank(
    model: Model, degree: int, left: list[tuple[int, int] | None]
) -> None:
    is_answered(a_bench(model, (degree, degree)), model, 16)
    by_layers = [layers for layers in left if layers is not None]
    assert len(by_layers) == degree * model.layout.num_layers


class FlippingFabric(MemoryFabric):
    """One bit of this write arrives wrong."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._left = number

    def copy(self, admission: str, base: int, spans: Offsets) -> None:
        self._left -= 1
        self.flip_bits = 1 if self._left == 0 else 0
        super().copy(admission, base, spans)


@pytest.mark.parametrize("num_writes", [1, 2, 5])
@unequal_pairs
def test_a_bit_that_flips_at_any_rank_is_caught(
    model: Model, degree: int, other: int, num_writes: int
) -> None:
    bench = a_bench(model, (degree, other), fabric=FlippingFabric(num_writes))
    attempt_id = bench.submit("a", list(PROMPT), sampling=GREEDY)
    bench.run()
    (kept,) = bench.told(Kept)
    assert isinstance(kept, Kept)
    assert kept.cause.startswith("rejected: checksum")
    assert bench.tokens(attempt_id) == model.alone("float32", 16)
    bench.check_nothing_is_held()


@pytest.mark.parametrize("num_turns", range(8))
@unequal_pairs
def test_a_link_that_breaks_at_any_moment_costs_no_token(
    model: Model, degree: int, other: int, num_turns: int
) -> None:
    bench = a_bench(model, (degree, other))
    attempt_id = bench.submit("a", list(PROMPT), sampling=GREEDY)
    bench.fabric.stall()
    bench.run(num_turns)
    bench.break_link()
    bench.fabric.resume()
    bench.run()
    assert bench.tokens(attempt_id) == model.alone("float32", 16)
    bench.check_nothing_is_held()


@pytest.mark.parametrize(("degree", "other", "rank"), [(1, 2, 1), (2, 1, 0), (2, 4, 3), (4, 2, 1)])
def test_a_rank_that_cannot_be_written_to_costs_the_whole_link_and_no_token(
    model: Model, degree: int, other: int, rank: int
) -> None:
    """The other rank pairs' writes stand still: they are given up, and land nowhere."""
    bench = a_bench(model, (degree, other))
    attempt_id = bench.submit("a", list(PROMPT), sampling=GREEDY)
    bench.fabric.stall()
    while not any(each.transfer_thread._writes.in_flight for each in bench.prefill.ranks):
        bench.turn()
    bench.fabric.kill(bench.decode.rank_name(rank))
    bench.turn()
    bench.prefill.carry()
    assert not any(each.transfer_thread._writes.in_flight for each in bench.prefill.ranks)
    bench.fabric.dead.clear()
    bench.fabric.resume()
    bench.run()
    (kept,) = bench.told(Kept)
    assert isinstance(kept, Kept)
    assert "is dead" in kept.cause
    assert bench.tokens(attempt_id) == model.alone("float32", 16)
    bench.check_nothing_is_held()


@unequal_pairs
def test_a_cached_prefix_is_copied_to_other_ranks_and_found_there(
    model: Model, degree: int, other: int
) -> None:
    bench = a_bench(model, (degree, other))
    bench.submit("before", list(PROMPT), alone=True)
    bench.run()
    share = CopyPrefix(
        attempt_id=AttemptId("copy"), tokens=tuple(PROMPT), destination=bench.decode.address
    )
    bench.prefill.loop.attempts.copy_prefix("router", share)
    bench.run()
    assert handed(bench).moved.num_blocks == len(PROMPT) // 16
    attempt_id = bench.submit("a", list(PROMPT), sampling=GREEDY)
    bench.run()
    assert handed(bench).moved.skipped_blocks == len(PROMPT) // 16
    assert bench.tokens(attempt_id) == model.alone("float32", 16)
    bench.check_nothing_is_held()


@unequal_pairs
def test_a_sequence_that_decodes_moves_to_other_ranks(
    model: Model, degree: int, other: int
) -> None:
    bench = a_bench(model, (degree, other))
    attempt_id = bench.submit("a", list(PROMPT), sampling=GREEDY, alone=True)
    bench.run(12)
    assert 0 < len(bench.tokens(attempt_id)) < NUM_OUTPUT
    bench.prefill.loop.attempts.move(attempt_id, bench.decode.address)
    bench.run()
    assert handed(bench).attempt_id == attempt_id
    assert bench.tokens(attempt_id) == model.alone("float32", 16)
    bench.check_nothing_is_held()

"""Workers of several ranks as two ends of one link, over the memory transport."""

from __future__ import annotations

from concurrent.futures import Future
from itertools import product

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kv_transfer.endpoints import all_ranks
from kv_transfer.endpoints.all_ranks import AllRanksEndpoint
from kv_transfer.endpoints.endpoint import PeerPool
from kv_transfer.endpoints.when_all import when_all
from kv_transfer.errors import BadPeer, LinkFailed
from kv_transfer.layout.block_write import BlockWrite
from kv_transfer.layout.checksum import checksum_seed, try_sum, wait_for
from kv_transfer.layout.checksum_by_heads import checksum_by_heads
from kv_transfer.layout.checksum_stream import ChecksumStream
from kv_transfer.layout.head_routes import rank_pairs
from kv_transfer.layout.reshard import staging_layout
from kv_transfer.layout.staging import Staging
from kv_transfer.transports.probe import LinkSpeed, Probe, Scratch
from kv_transfer.transports.transport import Transport, together
from tests.kv_transfer.in_process import HandEndpoint, InProcessCalls
from tests.kv_transfer.pools import a_region, some_tokens
from tests.kv_transfer.sides import NUM_BLOCKS, Ends, Side
from tests.kv_transfer.streams import AtOnce
from wire.layout import KvLayout
from wire.reports import Traffic

pytestmark = pytest.mark.quick

MODEL = KvLayout(num_layers=2, num_kv_heads=4, head_size=2, block_size=4, dtype="float32")
DEGREES = (1, 2, 4, 8)
UNEQUAL = [(1, 2), (2, 1), (4, 2), (2, 8), (8, 1)]

every_pair = pytest.mark.parametrize(("degree", "other"), list(product(DEGREES, repeat=2)))
unequal_pairs = pytest.mark.parametrize(("degree", "other"), UNEQUAL)


def over(num_ranks: int, **changes: object) -> KvLayout:
    return msgspec.structs.replace(MODEL, num_ranks=num_ranks, **changes)


def a_write(ends: Ends, num_tokens: int = 19, first_remote_block: int = 0) -> BlockWrite:
    """A write of tokens in scattered blocks to scattered remote blocks."""
    ours, theirs = ends.source.layout, ends.destination.layout
    blocks = tuple(7 * i % NUM_BLOCKS for i in range(ours.num_blocks(num_tokens)))
    remote_blocks = tuple(NUM_BLOCKS - 1 - 3 * i for i in range(theirs.num_blocks(num_tokens)))
    ends.source.put(blocks, some_tokens(MODEL, num_tokens))
    return BlockWrite(blocks, remote_blocks, num_tokens, first_remote_block)


@pytest.mark.parametrize(("block_size", "remote_block_size"), [(4, 4), (4, 8), (8, 4)])
@every_pair
def test_what_is_written_arrives_at_all_ranks_with_the_checksum_that_they_find(
    degree: int, other: int, block_size: int, remote_block_size: int
) -> None:
    ends = Ends(over(degree, block_size=block_size), over(other, block_size=remote_block_size))
    block_write = a_write(ends, first_remote_block=3)
    ends.write(block_write)
    (written,) = ends.written
    assert written.cause is None
    found = ends.destination.get(block_write.remote_blocks, block_write.num_tokens)
    assert torch.equal(found, some_tokens(MODEL, block_write.num_tokens))
    assert written.checksum == ends.checksum(block_write.remote_blocks, 3)


@given(st.sampled_from(UNEQUAL), st.integers(0, 7), st.integers(0, 2**16), st.integers(0, 7))
@settings(max_examples=60)
def test_a_bit_that_flips_in_any_rank_s_blocks_changes_the_checksum(
    degrees: tuple[int, int], rank: int, place: int, bit: int
) -> None:
    ends = Ends(over(degrees[0]), over(degrees[1]))
    block_write = a_write(ends)
    ends.write(block_write)
    pool = ends.destination.pools[rank % degrees[1]]
    size = pool.layout.block_bytes
    remote_block = block_write.remote_blocks[place % len(block_write.remote_blocks)]
    pool.memory[remote_block * size + place % size] ^= 1 << bit
    assert ends.written[0].checksum != ends.checksum(block_write.remote_blocks)


@pytest.mark.parametrize("dtype", ["float32", "float8_e4m3fn"])
@pytest.mark.parametrize("order", ["kv", "vk"])
@pytest.mark.parametrize("sums", [None, ChecksumStream(torch.device("cpu"), AtOnce())])
def test_a_part_of_the_heads_has_the_checksum_of_what_its_source_has_staged(
    dtype: str, order: str, sums: ChecksumStream | None
) -> None:
    """A CPU reads in place; a device gathers, in parts."""
    layout = over(1, dtype=dtype, kv_order=order)
    generator = torch.Generator().manual_seed(0)
    size = (NUM_BLOCKS * layout.block_bytes,)
    memory = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    pool, blocks = a_region(memory), (7, 2, 3)
    staging = Staging(pool, layout, a_region(torch.empty(size, dtype=torch.uint8)), sums)
    for heads in (range(1), range(1, 3), range(4)):
        made = staging_layout(layout, heads), 0, checksum_seed(5, heads)
        staged = staging.stage(blocks, len(blocks) * layout.block_size, *made)
        found = checksum_by_heads(pool, layout, [heads], sums)(blocks, 5)
        assert wait_for(found) == wait_for(staged) != 0


def test_ranks_that_hold_each_other_s_heads_have_another_checksum() -> None:
    ends = Ends(over(1), over(2))
    block_write = a_write(ends)
    ends.write(block_write)
    first, second = (pool.memory for pool in ends.destination.pools)
    kept = first.clone()
    first.copy_(second)
    second.copy_(kept)
    assert ends.written[0].checksum != ends.checksum(block_write.remote_blocks)


@every_pair
def test_there_is_one_admission_for_each_pair_of_ranks(degree: int, other: int) -> None:
    ends = Ends(over(degree), over(other))
    pairs = rank_pairs(over(degree), over(other))
    admissions = ends.admissions()
    owners = [admission.decode().partition(" ")[0] for admission in admissions]
    assert owners == [f"destination/{pair.destination_rank}" for pair in pairs]
    assert len(set(admissions)) == len(pairs)
    assert len({pair[:2] for pair in pairs}) == len(pairs)


@unequal_pairs
def test_a_wrong_number_of_admissions_is_named(degree: int, other: int) -> None:
    ends = Ends(over(degree), over(other))
    peer = PeerPool(over(other), NUM_BLOCKS, (b"x",) * 3)
    with pytest.raises(BadPeer, match=r"3 admissions for \d pairs of ranks"):
        ends.source.endpoint.connect("again", peer, lambda found: None)


@unequal_pairs
def test_a_link_is_measured_as_a_whole(degree: int, other: int) -> None:
    ends = Ends(over(degree), over(other))
    num_pairs = len(rank_pairs(over(degree), over(other)))
    block_bytes = min(over(degree).of_rank(0).block_bytes, over(other).of_rank(0).block_bytes)
    assert ends.found == [LinkSpeed(1e-6, num_pairs * 1e6 * block_bytes)]


@unequal_pairs
def test_a_write_is_over_when_it_is_over_on_every_rank(degree: int, other: int) -> None:
    ends = Ends(over(degree), over(other))
    ends.fabric.stall()
    ends.write(a_write(ends))
    ends.fabric.resume()
    writing = [rank for rank, count in enumerate(ends.source.under_way) if count]
    for rank in writing:
        assert not ends.written
        ends.source.ranks[rank].transfer_thread.turn()
    assert len(ends.written) == 1


@unequal_pairs
def test_the_pool_is_closed_when_it_is_closed_on_every_rank(degree: int, other: int) -> None:
    ends, closed = Ends(over(degree), over(other)), list[str]()
    ends.destination.endpoint.evict("link", lambda: closed.append("closed"))
    for rank in ends.destination.ranks:
        assert not closed
        rank.transfer_thread.turn()
    assert closed == ["closed"]
    assert not ends.fabric.admitted


@unequal_pairs
def test_what_was_given_up_lands_on_no_rank_once_all_have_closed(degree: int, other: int) -> None:
    ends, over_now = Ends(over(degree), over(other)), list[str]()
    ends.fabric.stall()
    ends.write(a_write(ends))
    ends.source.endpoint.disconnect("link", lambda: over_now.append("over"))
    ends.source.turn()
    assert over_now == ["over"]
    assert ends.written[0].cause == "the session ended"
    ends.destination.endpoint.evict("link", lambda: None)
    ends.destination.turn()
    before = [pool.memory.clone() for pool in ends.destination.pools]
    ends.fabric.resume()
    for pool, memory in zip(ends.destination.pools, before, strict=True):
        assert torch.equal(pool.memory, memory)


@pytest.mark.parametrize(("degree", "other", "rank"), [(1, 2, 1), (2, 1, 0), (4, 2, 1), (2, 8, 5)])
def test_a_rank_pair_that_fails_takes_the_link_down_on_all_ranks_and_says_so_first(
    degree: int, other: int, rank: int
) -> None:
    ends = Ends(over(degree), over(other))
    ends.fabric.stall()
    ends.write(a_write(ends))
    ends.fabric.kill(f"destination/{rank}")
    while not ends.written:
        assert len(ends.written) <= len(ends.source.failed)
        ends.source.turn()
    assert ends.source.failed[0][0] == "link"
    assert "is dead" in ends.source.failed[0][1]
    assert ends.written[0].cause is not None
    assert "is dead" in ends.written[0].cause
    assert not any(ends.source.under_way)
    ends.write(a_write(ends))
    assert ends.written[1].cause is not None


def test_a_write_over_a_link_that_was_never_there_ends_at_once() -> None:
    ends = Ends(over(2), over(1))
    ends.source.endpoint.disconnect("link", lambda: None)
    ends.write(a_write(ends))
    assert ends.written[0].cause == "link is not connected"


def test_a_rank_that_is_lost_ends_its_part_of_everything() -> None:
    ends = Ends(over(1), over(1))
    own = Side("own", over(2), ends.fabric)
    other = InProcessCalls(own.ranks[1])
    assert isinstance(own.ranks[0], HandEndpoint)
    endpoint, failed = AllRanksEndpoint(own.ranks[0], [other.rank]), list[str]()
    endpoint.start(lambda link, cause: failed.append(cause), lambda error: None)
    other.lost = ConnectionError("rank 1 is gone")
    ended: list[str] = []
    endpoint.evict("link", lambda: ended.append("evicted"))
    found: list[LinkSpeed | str] = []
    admissions = ends.admissions("second"), ends.admissions("third")
    peer = PeerPool(over(1), NUM_BLOCKS, (*admissions[0], *admissions[1]))
    endpoint.connect("second", peer, found.append)
    while not found:
        own.ranks[0].transfer_thread.turn()
    assert found == ["rank 1 is gone"]
    assert ended == ["evicted"]
    with pytest.raises(ConnectionError):
        wait_for(endpoint.checksum(over(1))([1], 0))


def test_a_rank_pair_that_fails_while_it_is_measured_is_why_there_is_no_link() -> None:
    ends, found = Ends(over(1), over(2)), list[LinkSpeed | str]()
    source = Side("new", over(2), ends.fabric)
    told: list[tuple[bytes, ...]] = []
    ends.destination.endpoint.admit("second", over(2), told.append)
    ends.destination.turn()
    for rank, probe in zip(source.ranks, (endless, cut), strict=True):
        rank._start_probe = probe
    source.endpoint.connect("second", PeerPool(over(2), NUM_BLOCKS, told[0]), found.append)
    while not found:
        source.turn()
    assert found == ["cut"]
    source.turn()
    assert found == ["cut"]


def endless(transport: Transport, name: str, scratch: Scratch) -> Probe:
    while True:
        yield


def cut(transport: Transport, name: str, scratch: Scratch) -> Probe:
    yield
    raise LinkFailed("cut")


def test_a_rank_that_does_not_read_its_blocks_in_time_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends = Ends(over(1), over(1))
    ranks = Side("own", over(2), ends.fabric).ranks
    other = InProcessCalls(ranks[1])
    endpoint = AllRanksEndpoint(ranks[0], [other.rank])
    monkeypatch.setattr(all_ranks, "CHECKSUM_S", 0.0)
    monkeypatch.setattr(other, "call", lambda message, answer: Future())
    with pytest.raises(TimeoutError, match="rank 1 has not read 2 blocks within 0 s"):
        try_sum(endpoint.checksum(over(1))([1, 2], 0))


def test_joined_results_are_in_order_and_told_once() -> None:
    told: list[list[str]] = []
    first, second, third = when_all(3, told.append)
    for tell, what in ((third, "c"), (first, "a"), (second, "b")):
        assert not told
        tell(what)
    assert told == [["a", "b", "c"]]


def test_traffic_of_several_rank_pairs_adds_up_and_is_unknown_where_one_is() -> None:
    one = Traffic(num_writes=1, num_bytes=10, num_descriptors=2, post_s=0.5, fabric_s=1.0)
    assert together([one]) == one
    two = Traffic(num_writes=2, num_bytes=20, num_descriptors=4, post_s=1.0, fabric_s=2.0)
    assert together([one, one]) == two
    assert together([one, None]) is None
    assert together([]) is None

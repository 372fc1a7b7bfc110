import pytest
from msgspec.structs import replace

from kv_transfer.handoff.effects import CutLink, HandedOver, NotHandedOver, SourceClosed, Write
from kv_transfer.handoff.source import SourceHandoff, SourceState
from kv_transfer.layout.block_write import BlockWrite
from tests.kv_transfer.attempts import (
    LAYOUT,
    a_destination,
    a_source,
    an_offer,
    final,
    sent,
    writes,
)
from wire.handoff import (
    Abort,
    Accepted,
    Commit,
    Grant,
    Moved,
    Quiesced,
    Refuse,
    RefuseReason,
    Rejected,
    Stale,
)

pytestmark = pytest.mark.quick

BLOCKS = (3, 4, 5)


def a_write(
    write_id: int,
    blocks: tuple[int, ...],
    remote_blocks: tuple[int, ...],
    num_tokens: int,
    first_remote_block: int,
    layers: tuple[int, int] | None = None,
) -> Write:
    block_write = BlockWrite(blocks, remote_blocks, num_tokens, first_remote_block, layers)
    return Write(write_id, block_write)


def a_grant(num_held: int = 0) -> Grant:
    (grant,) = sent(a_destination(num_held).grant())
    assert isinstance(grant, Grant)
    return grant


def test_full_blocks_leave_while_prefill_still_computes() -> None:
    source = a_source()
    source.receive(a_grant(), now=1.0)
    assert source.computed(BLOCKS, 4) == [a_write(0, (3,), (20,), 4, 0)]
    assert source.computed(BLOCKS, 9) == [a_write(1, (4,), (21,), 4, 1)]
    assert source.computed(BLOCKS, 10) == [a_write(2, (5,), (22,), 2, 2)]


def test_blocks_computed_before_the_grant_leave_with_it() -> None:
    source = a_source()
    assert source.computed(BLOCKS, 8) == []
    assert source.receive(a_grant(), now=1.0) == [a_write(0, (3, 4), (20, 21), 8, 0)]


def test_blocks_that_the_destination_holds_are_not_written() -> None:
    source = a_source()
    source.receive(a_grant(num_held=2), now=1.0)
    assert source.computed(BLOCKS, 10) == [a_write(0, (5,), (20,), 2, 2)]
    assert source.tally.skipped_blocks == 2


def test_the_last_chunk_leaves_layer_by_layer_and_counts_its_blocks_once() -> None:
    layout = replace(LAYOUT, num_layers=4)
    source = a_source(layout)
    source.receive(replace(a_grant(), layout=layout), now=1.0)
    source.computed(BLOCKS, 4)
    assert source.computed_layers(BLOCKS, 2) == [a_write(1, (4, 5), (21, 22), 6, 1, (0, 2))]
    assert source.computed_layers(BLOCKS, 2) == []
    assert source.computed_layers(BLOCKS, 3) == [a_write(2, (4, 5), (21, 22), 6, 1, (2, 3))]
    assert source.computed(BLOCKS, 10) == [a_write(3, (4, 5), (21, 22), 6, 1, (3, 4))]
    assert source.tally.num_blocks == 3
    assert source.finish(final(), now=2.0) == []
    assert [sent(source.wrote(write, 1.0, 2.5, 0)) for write in (3, 0, 2)] == [[], [], []]
    (commit,) = sent(source.wrote(1, 1.0, 2.5, 0))
    assert isinstance(commit, Commit)


def test_layers_wait_for_the_grant() -> None:
    layout = replace(LAYOUT, num_layers=4)
    source = a_source(layout)
    assert source.computed_layers(BLOCKS, 2) == []
    source.computed(BLOCKS, 10)
    (write,) = writes(source.receive(replace(a_grant(), layout=layout), now=1.0))
    assert write.block_write.layers is None


def test_layers_of_another_layout_leave_together() -> None:
    source = a_source(replace(LAYOUT, num_layers=4))
    theirs = replace(LAYOUT, num_layers=4, kv_order="vk")
    source.receive(replace(a_grant(), layout=theirs), now=1.0)
    assert source.computed_layers(BLOCKS, 2) == []


def test_nothing_leaves_by_layers_when_the_destination_has_it_all() -> None:
    layout = replace(LAYOUT, num_layers=4)
    source = a_source(layout)
    source.receive(replace(a_grant(3), layout=layout), now=1.0)
    assert source.computed_layers(BLOCKS, 2) == []


def test_the_commit_waits_for_the_last_write() -> None:
    source = a_source()
    source.receive(a_grant(), now=1.0)
    source.computed(BLOCKS, 10)
    assert source.finish(final(), now=2.0) == []
    (commit,) = sent(source.wrote(0, 1.0, 2.5, 0))
    assert isinstance(commit, Commit)
    assert commit.new_tokens == (99,)
    assert commit.epoch == 7


def committed_source() -> tuple[SourceHandoff, Grant]:
    source = a_source()
    grant = a_grant()
    source.receive(grant, now=1.0)
    source.computed(BLOCKS, 10)
    source.finish(final(), now=2.0)
    source.wrote(0, 1.0, 2.5, 0)
    assert source.state is SourceState.COMMITTED
    return source, grant


def test_acceptance_ends_the_handoff_and_frees_the_blocks() -> None:
    source, grant = committed_source()
    accepted = Accepted(**grant.ends, epoch=7)
    assert source.receive(accepted, now=3.0) == [HandedOver(), SourceClosed()]
    assert source.receive(accepted, now=3.1) == []


def test_the_commit_tells_what_moved_and_how_much_prefill_hid() -> None:
    source = a_source()
    source.receive(a_grant(num_held=1), now=1.0)
    source.computed(BLOCKS, 8)
    source.wrote(0, 1.0, 1.5, 0)
    source.computed(BLOCKS, 10)
    source.finish(final(), now=2.0)
    (commit,) = sent(source.wrote(1, 1.75, 2.5, 0))
    assert isinstance(commit, Commit)
    assert commit.moved == Moved(
        num_blocks=2,
        skipped_blocks=1,
        num_bytes=2 * LAYOUT.block_bytes,
        transfer_s=1.25,
        hidden_s=0.75,
        exposed_s=0.5,
    )


def test_a_refusal_costs_nothing() -> None:
    source = a_source()
    refuse = Refuse(**an_offer().ends, reason=RefuseReason.FULL, detail="no free blocks")
    assert source.receive(refuse, now=1.0) == [
        NotHandedOver("full: no free blocks"),
        SourceClosed(),
    ]


def test_a_rejected_commit_leaves_the_sequence_with_the_source() -> None:
    source, grant = committed_source()
    effects = source.receive(Rejected(**grant.ends, epoch=7, reason="checksum"), now=3.0)
    assert effects == [NotHandedOver("rejected: checksum"), SourceClosed()]


def test_a_cancelled_source_is_quiet_only_when_its_last_write_has_ended() -> None:
    source = a_source()
    source.receive(a_grant(), now=1.0)
    source.computed(BLOCKS, 10)
    effects = source.abort("client left", now=1.0)
    assert [type(message) for message in sent(effects)] == [Abort]
    assert SourceClosed() not in effects
    effects = source.wrote(0, 1.0, 4.0, 0)
    assert sent(effects) == [Quiesced(**an_offer().ends, epoch=7)]
    assert effects[-1] == SourceClosed()


def test_a_grant_that_comes_after_the_end_is_answered_with_quiescence() -> None:
    source = a_source()
    effects = source.abort("client left", now=1.0)
    assert sent(effects)[-1] == Quiesced(**an_offer().ends, epoch=None)
    assert sent(source.receive(a_grant(), now=1.0)) == [Quiesced(**an_offer().ends, epoch=7)]


def test_a_failed_write_keeps_the_sequence_here_and_nobody_is_told_that_all_is_quiet() -> None:
    source = a_source()
    source.receive(a_grant(), now=1.0)
    source.computed(BLOCKS, 8)
    source.computed(BLOCKS, 10)
    assert source.write_failed(0, "link broke") == [NotHandedOver("write failed: link broke")]
    assert source.write_failed(1, "link broke") == [SourceClosed()]


def test_writes_that_do_not_end_cost_the_link() -> None:
    source = a_source()
    source.receive(a_grant(), now=1.0)
    source.computed(BLOCKS, 10)
    source.abort("client left", now=2.0)
    assert source.tick(now=11.9) == []
    (cut,) = source.tick(now=12.0)
    assert isinstance(cut, CutLink)
    assert source.tick(now=99.0) == []
    assert source.write_failed(0, "torn down") == [SourceClosed()]


def test_writes_of_a_lost_session_are_waited_for_without_a_word() -> None:
    source = a_source()
    source.receive(a_grant(), now=1.0)
    source.computed(BLOCKS, 10)
    source.abort("client left", now=2.0)
    assert source.peer_lost("session ended") == []
    assert source.write_failed(0, "torn down") == [SourceClosed()]


def test_the_checksum_is_that_of_all_blocks() -> None:
    source = a_source()
    source.receive(a_grant(), now=1.0)
    source.computed(BLOCKS, 8)
    source.computed(BLOCKS, 10)
    source.finish(final(), now=2.0)
    source.wrote(1, 1.0, 2.0, (1 << 64) - 1)
    (commit,) = sent(source.wrote(0, 1.0, 2.0, 5))
    assert isinstance(commit, Commit)
    assert commit.checksum == 4


def test_a_leg_that_the_destination_does_not_know_ends() -> None:
    source, grant = committed_source()
    outcomes = source.receive(Stale(**grant.ends), now=3.0)
    assert any(isinstance(e, NotHandedOver) and e.ambiguous for e in outcomes)


def test_losing_the_destination_before_the_commit_is_certain() -> None:
    source = a_source()
    source.receive(a_grant(), now=1.0)
    assert NotHandedOver("gone", ambiguous=False) in source.peer_lost("gone")


def test_losing_the_destination_after_the_commit_is_ambiguous() -> None:
    source, _ = committed_source()
    assert NotHandedOver("gone", ambiguous=True) in source.peer_lost("gone")


def test_a_late_grant_is_waited_for_while_prefill_runs_and_not_for_ever_after() -> None:
    source = a_source()
    assert source.tick(now=1000.0) == []
    source.finish(final(), now=1000.0)
    assert source.tick(now=1009.0) == []
    outcomes = [e for e in source.tick(now=1010.0) if isinstance(e, NotHandedOver)]
    assert len(outcomes) == 1
    assert not outcomes[0].ambiguous


def test_a_silent_destination_after_the_commit_is_given_up() -> None:
    source, _ = committed_source()
    outcomes = [e for e in source.tick(now=12.0) if isinstance(e, NotHandedOver)]
    assert len(outcomes) == 1
    assert outcomes[0].ambiguous


def test_a_grant_of_the_wrong_size_is_turned_down() -> None:
    source = a_source()
    grant = Grant(**an_offer().ends, first_missing_block=0, blocks=(20,), epoch=7, layout=LAYOUT)
    effects = source.receive(grant, now=1.0)
    assert not writes(effects)
    assert any(isinstance(effect, NotHandedOver) for effect in effects)


def test_repeated_grants_write_nothing_twice() -> None:
    source = a_source()
    source.computed(BLOCKS, 10)
    assert len(writes(source.receive(a_grant(), now=1.0))) == 1
    assert source.receive(a_grant(), now=1.1) == []

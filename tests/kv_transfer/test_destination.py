import msgspec
import pytest

from kv_transfer.handoff.destination import DestinationHandoff, DestinationState
from kv_transfer.handoff.effects import Adopt, AttemptLost, CutLink, Effect, FreeBlocks, Verify
from tests.kv_transfer.attempts import PROMPT, SAMPLING, a_destination, an_offer, sent
from wire.handoff import Abort, Accepted, Commit, Grant, Quiesced, Rejected

pytestmark = pytest.mark.quick


def a_commit(**changes: object) -> Commit:
    commit = Commit(
        **an_offer().ends,
        epoch=7,
        new_tokens=(99,),
        num_prompt=len(PROMPT),
        sampling=SAMPLING,
        checksum=3,  # the number of blocks is their checksum here
    )
    return msgspec.structs.replace(commit, **changes)


def test_the_grant_names_the_blocks_after_the_prefix_it_holds() -> None:
    (grant,) = sent(a_destination(num_held=1).grant())
    assert isinstance(grant, Grant)
    assert (grant.first_missing_block, grant.blocks) == (1, (20, 21))


def test_a_repeated_offer_gets_the_same_grant() -> None:
    destination = a_destination()
    assert destination.receive(an_offer(), now=1.0) == destination.grant()


def test_a_verified_commit_is_adopted_with_held_and_granted_blocks() -> None:
    destination = a_destination(num_held=1)
    effects = committed(destination, a_commit(checksum=2))
    assert effects[0] == Adopt(a_commit(checksum=2), (10, 20, 21))
    assert sent(effects) == [Accepted(**an_offer().ends, epoch=7)]


def test_a_repeated_commit_is_accepted_again_and_adopted_once() -> None:
    destination = a_destination()
    committed(destination, a_commit())
    effects = destination.receive(a_commit(), now=1.0)
    assert sent(effects) == [Accepted(**an_offer().ends, epoch=7)]
    assert not any(isinstance(effect, Adopt) for effect in effects)


def test_a_commit_of_another_epoch_is_ignored() -> None:
    destination = a_destination()
    assert destination.receive(a_commit(epoch=6), now=1.0) == []
    assert destination.state is DestinationState.GRANTED


def committed(destination: DestinationHandoff, commit: Commit) -> list[Effect]:
    """Effects of a commit whose blocks are checksummed at once."""
    effects = destination.receive(commit, now=1.0)
    for effect in list(effects):
        if isinstance(effect, Verify):
            effects += destination.checksummed(len(effect.blocks))
    return [effect for effect in effects if not isinstance(effect, Verify)]


def rejected(destination: DestinationHandoff, commit: Commit) -> bool:
    effects = committed(destination, commit)
    assert any(isinstance(effect, FreeBlocks) for effect in effects)
    return any(isinstance(message, Rejected) for message in sent(effects))


def test_tokens_that_do_not_fit_the_offer_are_rejected() -> None:
    assert rejected(a_destination(), a_commit(new_tokens=()))
    assert rejected(a_destination(), a_commit(new_tokens=(5, 99)))
    assert rejected(a_destination(), a_commit(num_prompt=11))


def test_blocks_that_do_not_hold_what_was_sent_are_rejected() -> None:
    assert rejected(a_destination(), a_commit(checksum=2))


def test_aborted_blocks_are_free_only_when_the_source_is_quiet() -> None:
    destination = a_destination()
    effects = destination.abort("cancelled", now=1.0)
    assert [type(m) for m in sent(effects)] == [Abort]
    assert not any(isinstance(effect, FreeBlocks) for effect in effects)
    quiet = Quiesced(**an_offer().ends, epoch=7)
    assert destination.receive(quiet, now=1.0) == [FreeBlocks((20, 21, 22))]
    assert destination.receive(quiet, now=1.0) == []


def test_a_source_that_aborts_still_has_to_be_quiet() -> None:
    destination = a_destination()
    abort = Abort(**an_offer().ends, cause="client left", by_source=True)
    assert destination.receive(abort, now=1.0) == [
        AttemptLost("aborted by the source: client left")
    ]
    assert destination.receive(Quiesced(**an_offer().ends, epoch=None), now=1.0) == [
        FreeBlocks((20, 21, 22))
    ]


def test_quiescence_that_overtakes_the_abort_ends_the_leg() -> None:
    effects = a_destination().receive(Quiesced(**an_offer().ends, epoch=7), now=1.0)
    assert FreeBlocks((20, 21, 22)) in effects


def test_a_lost_connection_fences_the_blocks_and_the_source_s_death_frees_them() -> None:
    destination = a_destination()
    assert destination.source_lost("reset") == [AttemptLost("reset")]
    assert destination.source_fenced() == [FreeBlocks((20, 21, 22))]


def test_no_commit_in_time_aborts_the_leg() -> None:
    destination = a_destination()
    assert destination.tick(now=99.0) == []
    assert [type(m) for m in sent(destination.tick(now=100.0))] == [Abort]
    assert destination.state is DestinationState.FENCING


def test_what_ends_after_acceptance_is_not_the_handoff_s_business() -> None:
    destination = a_destination()
    committed(destination, a_commit())
    assert destination.abort("late", now=1.0) == []
    assert destination.source_lost("late") == []
    assert destination.receive(Quiesced(**an_offer().ends, epoch=7), now=1.0) == []


def test_a_source_that_is_not_quiet_in_time_costs_the_link() -> None:
    destination = a_destination()
    destination.abort("cancelled", now=10.0)
    assert destination.tick(now=14.9) == []
    (cut,) = destination.tick(now=15.0)
    assert isinstance(cut, CutLink)
    assert destination.tick(now=99.0) == []
    assert destination.source_fenced() == [FreeBlocks((20, 21, 22))]


def verifying() -> DestinationHandoff:
    destination = a_destination(num_held=1)
    assert destination.receive(a_commit(checksum=2), now=1.0) == [Verify((20, 21), 1)]
    return destination


def test_a_repeated_commit_is_verified_once() -> None:
    destination = verifying()
    assert destination.receive(a_commit(checksum=2), now=1.0) == []
    assert destination.receive(an_offer(), now=1.0) == []
    assert destination.tick(now=1e9) == []
    assert isinstance(destination.checksummed(2)[0], Adopt)


def test_an_attempt_that_is_not_wanted_keeps_its_blocks_while_they_are_read() -> None:
    destination = verifying()
    (abort, lost) = destination.abort("cancelled", now=1.0)
    assert [type(message) for message in sent([abort])] == [Abort]
    assert lost == AttemptLost("cancelled")
    assert destination.abort("cancelled", now=1.0) == []
    assert destination.receive(Quiesced(**an_offer().ends, epoch=7), now=1.0) == []
    assert destination.checksummed(2) == [FreeBlocks((10, 20, 21))]


@pytest.mark.parametrize(
    "message",
    [
        Abort(**an_offer().ends, cause="no verdict in time", by_source=True),
        Quiesced(**an_offer().ends, epoch=7),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_source_that_gives_up_while_its_blocks_are_verified_is_believed(
    message: Abort | Quiesced,
) -> None:
    destination = verifying()
    (lost,) = destination.receive(message, now=1.0)
    assert isinstance(lost, AttemptLost)
    assert destination.checksummed(2) == [FreeBlocks((10, 20, 21))]


def test_what_a_lost_source_had_committed_is_verified_and_runs() -> None:
    destination = verifying()
    assert destination.source_lost("reset") == []
    assert destination.source_fenced() == []
    assert isinstance(destination.checksummed(2)[0], Adopt)

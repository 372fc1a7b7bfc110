"""One attempt, as its workers' messages make it end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from router.answers.token_merger import TokenMerger
from router.errors import InvalidRequest, Unavailable
from router.fleet.attempt_log import AttemptFailed, AttemptLog
from router.fleet.worker_events import WorkerEvent, WorkerLost
from router.journeys.attempt import Attempt
from router.placing.placement_request import Placement
from router.requests.request import GenerateRequest
from wire.handoff import Moved
from wire.identity import AttemptId, WorkerRef
from wire.messages import Failed, FinishReason, Handed, Kept, Output, Prefilled, Released
from wire.sampling import SamplingParams

pytestmark = pytest.mark.quick

PREFILL, DECODE = WorkerRef("prefill-0", 1), WorkerRef("decode-0", 1)
ID = AttemptId("a", 0)
PREFILLED = Prefilled(attempt_id=ID, queue_s=0, prefill_s=0, cached_tokens=0)
MOVED = Moved(num_blocks=1, skipped_blocks=0, num_bytes=1, transfer_s=0, exposed_s=0)
HANDED = Handed(attempt_id=ID, source=PREFILL, moved=MOVED)
LOST = WorkerLost("it died")


def output(position: int, *tokens: int, finish: FinishReason | None = None) -> Output:
    return Output(attempt_id=ID, position=position, tokens=tokens, finish=finish)


class Told:
    """An attempt at a prompt of two tokens, and what it told its journey."""

    def __init__(self, **fields: Any) -> None:
        request = GenerateRequest(
            request_id="mine",
            prompt_tokens=(1, 2),
            sampling=SamplingParams(max_tokens=9),
            stop=(),
            timeout_s=60.0,
            **fields,
        )
        self.record = AttemptLog(attempts=1, placement=Placement(PREFILL, DECODE))
        self.tokens: list[int] = []
        self.wanted = 99
        self.num_progress = 0
        self.attempt = Attempt(
            ID, request, self.record, TokenMerger((1, 2)), self._take, self._progress
        )

    def say(self, sender: WorkerRef, *events: WorkerEvent) -> None:
        for event in events:
            self.attempt.on_event(sender, event)

    def _take(self, output: Output) -> bool:
        self.tokens += output.tokens
        return len(self.tokens) < self.wanted

    def _progress(self) -> None:
        self.num_progress += 1


async def test_it_is_finished_with_its_last_token() -> None:
    told = Told()
    waiting = asyncio.create_task(told.attempt.wait_ended())
    told.say(PREFILL, PREFILLED, output(2, 7))
    told.say(DECODE, HANDED, output(2, 7, 8))
    await asyncio.sleep(0)
    assert not waiting.done()
    told.say(DECODE, output(4, 9, finish=FinishReason.STOP), output(5, 10))
    await waiting
    assert told.attempt.finished
    assert told.tokens == [7, 8, 9]


async def test_it_ends_unfinished_when_the_answer_wants_no_more() -> None:
    told = Told()
    told.wanted = 2
    told.say(PREFILL, output(2, 7), output(3, 8), output(4, 9), LOST)
    await told.attempt.wait_ended()
    assert not told.attempt.finished
    assert told.tokens == [7, 8]


async def test_a_gap_fails_it_and_the_tokens_behind_it_are_nobodys() -> None:
    told = Told()
    told.say(PREFILL, output(2, 7), output(4, 9), output(3, 8))
    with pytest.raises(AttemptFailed, match="token 4 came where 3 was next"):
        await told.attempt.wait_ended()
    assert told.tokens == [7]


@pytest.mark.parametrize("sender", [PREFILL, DECODE])
async def test_once_the_sequence_has_moved_only_its_destination_matters(sender: WorkerRef) -> None:
    told = Told()
    told.say(PREFILL, PREFILLED, output(2, 7), Released(attempt_id=ID))
    told.say(sender, LOST)
    told.say(DECODE, output(3, 8, finish=FinishReason.LENGTH))
    if sender == PREFILL:
        await told.attempt.wait_ended()
        assert told.tokens == [7, 8]
    else:
        with pytest.raises(AttemptFailed, match=r"decode on .* failed: it died") as caught:
            await told.attempt.wait_ended()
        assert caught.value.lost


async def test_a_destination_lost_before_it_accepted_is_no_failure_while_the_sequence_is_kept() -> (
    None
):
    told = Told()
    told.say(DECODE, LOST)
    told.say(PREFILL, Kept(attempt_id=ID, cause="gone"), output(2, 7, finish=FinishReason.LENGTH))
    await told.attempt.wait_ended()
    assert told.attempt.finished


async def test_a_sequence_released_to_a_lost_destination_is_lost() -> None:
    told = Told()
    told.say(DECODE, LOST)
    told.say(PREFILL, output(2, 7), Released(attempt_id=ID))
    with pytest.raises(AttemptFailed, match="it died") as caught:
        await told.attempt.wait_ended()
    assert caught.value.worker == DECODE


@pytest.mark.parametrize("invalid", [False, True])
async def test_a_failure_says_whose_it_is(invalid: bool) -> None:
    told = Told()
    failed = Failed(attempt_id=ID, stage="prefill", cause="no", retryable=False, invalid=invalid)
    told.say(PREFILL, failed)
    with pytest.raises(InvalidRequest if invalid else AttemptFailed, match="no"):
        await told.attempt.wait_ended()


async def test_what_fails_where_tokens_are_taken_fails_the_attempt_alone() -> None:
    told = Told()

    def fail(output: Output) -> bool:
        raise RuntimeError("for the test")

    told.attempt._take = fail
    told.say(PREFILL, output(2, 7))
    with pytest.raises(RuntimeError, match="for the test"):
        await told.attempt.wait_ended()


async def test_only_the_first_end_counts() -> None:
    told = Told()
    told.attempt.fail(Unavailable("this router was stopped", reason="stopped"))
    told.say(PREFILL, output(2, 7, finish=FinishReason.STOP), LOST)
    with pytest.raises(Unavailable, match="stopped"):
        await told.attempt.wait_ended()
    assert told.tokens == []
    finished = Told()
    finished.say(PREFILL, output(2, 7, finish=FinishReason.STOP))
    finished.attempt.fail(Unavailable("this router was stopped", reason="stopped"))
    await finished.attempt.wait_ended()


async def test_reports_may_follow_the_last_token() -> None:
    told = Told()
    told.say(DECODE, output(2, 7, finish=FinishReason.STOP))
    await told.attempt.wait_ended()
    reported = asyncio.create_task(told.attempt.wait_reported(60))
    for sender, event in ((PREFILL, PREFILLED), (DECODE, HANDED)):
        await asyncio.sleep(0)
        assert not reported.done()
        told.say(sender, event)
    await reported
    assert told.record.handed == HANDED
    late = Told()
    late.say(DECODE, output(2, 7, finish=FinishReason.STOP))
    await late.attempt.wait_reported(0.0)


async def test_its_journey_hears_of_each_change_while_it_is_under_way() -> None:
    told = Told()
    told.say(PREFILL, PREFILLED, output(2, 7), output(3, 8))
    assert told.num_progress == 1
    told.say(DECODE, output(2, 7, 8, 9), output(5, 10))
    assert told.num_progress == 2, "the destination spoke for the first time"
    assert told.record.home == DECODE

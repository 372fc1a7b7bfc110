"""The end of an answer: finish reason, token usage and stage durations."""

from __future__ import annotations

import time

from router.answers.answer import Answer
from router.fleet.attempt_log import AttemptLog
from router.requests.request import Ending, GenerateRequest, Timing, TransferReport, Usage
from wire.messages import Output


class TokenTimes:
    """Times of an answer's first and last token."""

    def __init__(self, arrived_s: float) -> None:
        self._arrived_s = arrived_s
        self._first_s: float | None = None
        self._last_s = arrived_s
        self._num_after_first = 0

    def record(self, num_tokens: int) -> None:
        """Note that this many tokens arrived now."""
        self._last_s = time.monotonic()
        if self._first_s is None and num_tokens:
            self._first_s = self._last_s
            num_tokens -= 1
        self._num_after_first += num_tokens

    def timing(self, record: AttemptLog) -> Timing:
        first_s, prefilled = self._first_s, record.prefilled
        decode_s = None if first_s is None else self._last_s - first_s
        after = self._num_after_first
        return Timing(
            queue_s=prefilled.queue_s if prefilled else None,
            prefill_s=prefilled.prefill_s if prefilled else None,
            transfer=_transfer(record),
            decode_s=decode_s,
            ttft_s=None if first_s is None else first_s - self._arrived_s,
            tpot_s=None if decode_s is None or not after else decode_s / after,
        )


def make_ending(
    request: GenerateRequest,
    answer: Answer,
    last: Output,
    record: AttemptLog,
    times: TokenTimes,
    *,
    counts_prompt: bool = True,
) -> Ending:
    """The ending of an answer, which `last` completed; of several answers to one prompt, the first
    counts the prompt."""
    text = answer.text
    assert text.finish is not None
    assert record.placement is not None
    first = record.placement.first
    destination = record.placement.destination if record.destination_spoke else None
    return Ending(
        finish=text.finish,
        stop_text=text.stop_text,
        stop_token=None if text.stop_text or request.prompt_only else last.stop_token,
        usage=Usage(
            prompt_tokens=len(request.prompt_tokens) if counts_prompt else 0,
            completion_tokens=text.num_tokens,
            cached_tokens=_num_cached(request, record) if counts_prompt else 0,
        ),
        timing=times.timing(record),
        prefill_worker_id=first.worker_id,
        decode_worker_id=(destination or first).worker_id,
        attempts=record.attempts,
        tool_calls=answer.has_tool_calls,
    )


def _num_cached(request: GenerateRequest, record: AttemptLog) -> int:
    """Cached prompt tokens; after a failover a worker may have generated tokens cached, which do
    not count."""
    cached = record.prefilled.cached_tokens if record.prefilled else 0
    return min(cached, len(request.prompt_tokens))


def _transfer(record: AttemptLog) -> TransferReport | None:
    handed = record.handed
    if handed is None:
        return None
    return TransferReport(
        num_bytes=handed.moved.num_bytes,
        num_blocks=handed.moved.num_blocks,
        skipped_blocks=handed.moved.skipped_blocks,
        transfer_s=handed.moved.transfer_s,
        exposed_s=handed.moved.exposed_s,
        hidden_s=handed.moved.hidden_s,
    )

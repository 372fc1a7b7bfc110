"""What one worker has to do: its last report, and what this router has placed or heard since.

A report lags, but knows other routers' requests; what this router knows better is added to it or
taken off. Messages of a worker come in the order in which it said them, so that whatever comes
behind a report has happened after it, and `Report.seen_submits` tells which submissions it knows.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

from wire.identity import AttemptId
from wire.reports import Report

SILENT_REPORTS = 40
"""A router without new requests in so many reports, some ten seconds, has none at present."""


class _AttemptPhase(enum.Enum):
    UNHEARD = enum.auto()  # submitted; the last report may not know of it
    QUEUED = enum.auto()  # its prompt is in the last report
    EXPECTED = enum.auto()  # will come here from another worker
    DECODING = enum.auto()
    DEPARTING = enum.auto()  # prefilled here, and on its way to another worker


@dataclass(slots=True)
class _AttemptLoad:
    """The load of one attempt on this worker."""

    phase: _AttemptPhase
    tokens: float
    pairs: float
    context: float
    reserved: float
    """Need of the block pool, with its expected growth if it is to decode here."""
    stays: bool
    number: int = 0


class WorkerLoad:
    """The load of one incarnation, as one router sees it. All amounts are at least 0."""

    def __init__(self, router_id: str, block_size: int) -> None:
        self._router_id = router_id
        self._block_size = block_size
        self._parts: dict[AttemptId, _AttemptLoad] = {}
        self._num_submitted = 0
        self._not_heard_of: deque[_AttemptLoad] = deque()
        self._report: Report | None = None
        self._silent: dict[str, int] = {}
        """For each router, how many reports have told nothing new of it."""
        self.num_elsewhere = 0
        """Requests of other routers that the last report told of for the first time."""
        self._since = _Sum()
        self._unheard = _Sum()
        self._expected = _Sum()

    def place(
        self,
        attempt_id: AttemptId,
        *,
        tokens: float,
        pairs: float,
        context: float,
        growth: float,
        stays: bool,
    ) -> None:
        """A prompt with `tokens` to compute will be submitted.

        `context` tokens of it will be in the cache, and about `growth` more if it `stays`.
        """
        reserved = context + (growth if stays else 0.0)
        part = _AttemptLoad(_AttemptPhase.UNHEARD, tokens, pairs, context, reserved, stays)
        self._parts[attempt_id] = part
        self._unheard.add(part)

    def submit(self, attempt_id: AttemptId) -> int:
        """It is submitted now; returns the number of the submission."""
        self._num_submitted += 1
        part = self._parts.get(attempt_id)
        if part is not None:
            part.number = self._num_submitted
            self._not_heard_of.append(part)
        return self._num_submitted

    def expect(self, attempt_id: AttemptId, *, context: float, growth: float) -> None:
        """Another worker will hand it a sequence."""
        part = _AttemptLoad(_AttemptPhase.EXPECTED, 0.0, 0.0, context, context + growth, stays=True)
        self._parts[attempt_id] = part
        self._expected.add(part)

    def knows(self, report: Report) -> bool:
        """Whether a report would change nothing: the last one was equal, and still holds."""
        return report == self._report and self._since == _NOTHING

    def on_report(self, report: Report) -> int:
        """Returns how many tokens the worker has generated since its last report."""
        total = report.totals.generated_tokens
        before = total if self._report is None else self._report.totals.generated_tokens
        self._count_routers(report)
        self._report = report
        self._since = _Sum()
        heard = report.seen_submits.get(self._router_id, 0)
        while self._not_heard_of and self._not_heard_of[0].number <= heard:
            part = self._not_heard_of.popleft()
            if part.phase is _AttemptPhase.UNHEARD:
                self._unheard.add(part, -1)
                part.phase = _AttemptPhase.QUEUED
        return max(0, total - before)

    def prefilled(self, attempt_id: AttemptId) -> None:
        """Record that an attempt's prompt is computed."""
        part = self._parts.get(attempt_id)
        if part is None or part.phase not in (_AttemptPhase.UNHEARD, _AttemptPhase.QUEUED):
            return
        self._leave_queue(part)
        part.phase = _AttemptPhase.DEPARTING
        if part.stays:
            self._decodes(part)

    def stays(self, attempt_id: AttemptId) -> None:
        """It was to be handed over, and will not be."""
        part = self._parts.get(attempt_id)
        if part is None:
            return
        part.stays = True
        if part.phase is _AttemptPhase.DEPARTING:
            self._decodes(part)

    def arrived(self, attempt_id: AttemptId) -> None:
        """Record that an expected sequence decodes here now."""
        part = self._parts.get(attempt_id)
        if part is not None and part.phase is _AttemptPhase.EXPECTED:
            self._expected.add(part, -1)
            self._decodes(part)

    def ended(self, attempt_id: AttemptId) -> None:
        """The attempt has left this worker, or will never come."""
        part = self._parts.pop(attempt_id, None)
        if part is None:
            return
        match part.phase:
            case _AttemptPhase.UNHEARD | _AttemptPhase.QUEUED:
                self._leave_queue(part)
                part.phase = _AttemptPhase.DEPARTING
            case _AttemptPhase.EXPECTED:
                self._expected.add(part, -1)
            case _AttemptPhase.DECODING:
                self._since.num_decoding -= 1
                self._since.context -= part.context

    @property
    def router_ids(self) -> set[str]:
        """Routers that have submitted requests lately, by the last reports."""
        return {router for router, silent in self._silent.items() if silent < SILENT_REPORTS}

    @property
    def num_legs(self) -> int:
        return len(self._parts)

    @property
    def queued_tokens(self) -> float:
        told = self._report.waiting_tokens if self._report else 0
        return max(0.0, told + self._since.tokens) + self._unheard.tokens

    @property
    def queued_pairs(self) -> float:
        told = self._report.waiting_pairs if self._report else 0
        return max(0.0, told + self._since.pairs) + self._unheard.pairs

    @property
    def num_prompts(self) -> float:
        told = self._report.waiting_prompts if self._report else 0
        return max(0.0, told + self._since.num_prompts) + self._unheard.num_prompts

    @property
    def num_decoding(self) -> float:
        told = self._report.num_decoding if self._report else 0
        return max(0.0, told + self._since.num_decoding)

    @property
    def context_tokens(self) -> float:
        told = self._report.context_tokens if self._report else 0
        return max(0.0, told + self._since.context)

    @property
    def used_tokens(self) -> float:
        """Used tokens of the pool, as last reported; cached blocks without users are free."""
        if self._report is None:
            return 0.0
        used = (self._report.num_blocks - self._report.free_blocks) * self._block_size
        return max(0.0, used + self._since.context)

    @property
    def num_expected(self) -> float:
        """Sequences that will come from elsewhere to decode here."""
        return self._expected.num_prompts

    @property
    def expected_context(self) -> float:
        """Tokens that those will have in the cache when they begin."""
        return self._expected.context

    @property
    def expected_tokens(self) -> float:
        """Future needs of the pool: expected handoffs, and prompts that no report includes."""
        return self._expected.reserved + self._unheard.reserved

    def _count_routers(self, report: Report) -> None:
        """Note who has submitted requests since the report before."""
        now = report.seen_submits
        before = now if self._report is None else self._report.seen_submits
        new = {router: max(0, count - before.get(router, 0)) for router, count in now.items()}
        self.num_elsewhere = sum(new.values()) - new.get(self._router_id, 0)
        first = self._report is None
        self._silent = {
            router: 0 if first or count else self._silent.get(router, 0) + 1
            for router, count in new.items()
        }

    def _leave_queue(self, part: _AttemptLoad) -> None:
        if part.phase is _AttemptPhase.UNHEARD:
            self._unheard.add(part, -1)
        else:
            self._since.tokens -= part.tokens
            self._since.pairs -= part.pairs
            self._since.num_prompts -= 1

    def _decodes(self, part: _AttemptLoad) -> None:
        part.phase = _AttemptPhase.DECODING
        self._since.num_decoding += 1
        self._since.context += part.context


@dataclass(slots=True)
class _Sum:
    tokens: float = 0.0
    pairs: float = 0.0
    num_prompts: float = 0.0
    context: float = 0.0
    reserved: float = 0.0
    num_decoding: float = 0.0

    def add(self, part: _AttemptLoad, sign: int = 1) -> None:
        self.tokens += sign * part.tokens
        self.pairs += sign * part.pairs
        self.num_prompts += sign
        self.context += sign * part.context
        self.reserved += sign * part.reserved


_NOTHING = _Sum()

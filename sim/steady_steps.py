"""Steps that repeat themselves: a batch that only decodes is advanced by many of them at once.

Between two events of its worker such a batch does one thing: each step takes every sequence one
token further. Which steps there will be is planned ahead, with the durations that they would have
had one by one; they are carried out together when something else is to happen: a message has come,
a deadline is checked, a sequence ends or needs a block. The results are the same, bit for bit.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict

import msgspec

from engine.engine import SequenceProgress
from engine.schedule.step_times import StepTimes, StepWork
from engine.sequence import Sequence
from sim.clock import LocalTime
from sim.runner import DRAWN, VirtualRunner
from wire.messages import Output, StepOutputs
from worker.steps.step_context import StepContext
from worker.steps.step_loop import StepLoop

FIRST_STEPS = 4
"""Steps that are planned at first; each time that they pass undisturbed, twice as many follow."""


class _Step(msgspec.Struct, frozen=True, gc=False):
    """One planned step."""

    begin_s: float
    end_s: float
    seconds: float
    noise: float
    work: StepWork


class SteadySteps:
    """The steps of one worker that are planned, and not carried out yet.

    `times` is what the scheduling policies learn with; None where they have no target to keep.
    """

    def __init__(
        self,
        loop: StepLoop,
        context: StepContext,
        runner: VirtualRunner,
        time: LocalTime,
        times: StepTimes | None,
    ) -> None:
        self._loop = loop
        self._engine = context.engine
        self._calls = context.calls
        self._outbox = context.outbox
        self._runner = runner
        self._time = time
        self._times = times
        self._planned: list[_Step] = []
        self._left = 0
        """Further steps that the batch may take before something else happens to it."""

    def begin(self) -> bool:
        """Plan steps from the worker's time on; False when the next one may be another."""
        self._left = self._num_alike()
        return self._left > 1 and self._plan(FIRST_STEPS)

    def extend(self) -> bool:
        """Plan further steps behind those that have passed; False when a turn is due."""
        return bool(self._planned) and self._plan(2 * len(self._planned))

    @property
    def end_s(self) -> float:
        """End of the last planned step; there must be one."""
        return self._planned[-1].end_s

    def interrupt(self, now: float) -> bool:
        """Forget the steps that have not begun, and carry out the others: the worker is where it
        would be if each had been executed when it began. False when none were planned."""
        if not self._planned:
            return False
        num_begun = bisect_right(self._planned, now, key=lambda step: step.begin_s)
        self._runner.put_back([step.noise for step in self._planned[num_begun:]])
        del self._planned[num_begun:]
        self.carry_out(now)
        self.carry_out(math.inf)  # the step under way, whose messages leave at its end
        return True

    def carry_out(self, until_s: float) -> None:
        """Carry out the planned steps that end until then."""
        count = bisect_right(self._planned, until_s, key=lambda step: step.end_s)
        if not count:
            return
        steps, self._planned = self._planned[:count], self._planned[count:]
        self._learn(steps)
        self._time.now = steps[-1].end_s
        self._advance(count)

    def _num_alike(self) -> int:
        """How many steps nothing but a message can make different from one another."""
        engine = self._engine
        running = engine.running
        if engine.waiting or self._calls.pending or not running:
            return 0
        scheduled = engine.policy.plan(running)
        if len(scheduled) < len(running) or any(each.count != 1 for each in scheduled):
            return 0
        return min(map(self._num_alike_of, running))

    def _num_alike_of(self, sequence: Sequence) -> int:
        """How many steps take this sequence a token further and do nothing else to it."""
        attempt_id, attempts = sequence.attempt_id, self._loop.attempts
        attempt = attempts.get(attempt_id)
        if attempt is None or attempt_id in attempts.source_handoffs:
            return 0
        if not sequence.decoding or attempt.num_sent < len(sequence.tokens):
            return 0  # its next step sends its first token, or the first from here
        size, computed = self._engine.block_size, sequence.num_computed
        until_end = sequence.sampling.max_tokens - sequence.num_output - 1
        until_full = (sequence.num_published + 1) * size - 1 - computed
        return min(until_end, until_full, len(sequence.blocks) * size - computed)

    def _plan(self, most: int) -> bool:
        """Plan that many steps at most; False when none is possible."""
        planned, runner = self._planned, self._runner
        now, tick = self.end_s if planned else self._time.now, self._loop.next_tick_s
        batch = len(self._engine.running)
        context = sum(sequence.num_computed for sequence in self._engine.running)
        before = len(planned)
        while len(planned) < before + min(most, self._left) and now < tick:
            work = StepWork(batch, context + len(planned) * batch)
            noise = runner.draw_noise()
            seconds = runner.seconds(work, noise)
            planned.append(_Step(now, now + seconds, seconds, noise, work))
            now += seconds
        self._left -= len(planned) - before
        return len(planned) > before

    def _learn(self, steps: list[_Step]) -> None:
        """What the worker learns from the durations of its steps."""
        reports, times = self._loop.attempts.reports, self._times
        for step in steps:
            self._runner.busy_s += step.seconds
            seconds = step.end_s - step.begin_s
            if times is not None:
                times.observe(step.work, seconds)
            reports.observe(seconds, step.end_s, step.work)

    def _advance(self, count: int) -> None:
        """All sequences are `count` tokens further, and the routers are told."""
        attempts, outputs = self._loop.attempts, defaultdict[str, list[Output]](list)
        for sequence in self._engine.running:
            attempt, start = attempts.get(sequence.attempt_id), sequence.num_computed
            assert attempt is not None
            sequence.tokens += [DRAWN.token] * count
            sequence.num_computed = end = start + count
            progress = SequenceProgress(sequence, start, end, (DRAWN,))
            outputs[attempt.router_id].append(attempt.take_output(progress))
        for router_id, batch in outputs.items():
            attempts.reports.generated(len(batch) * count)
            self._outbox.to_router(router_id, StepOutputs(outputs=tuple(batch)))
        self._outbox.flush()

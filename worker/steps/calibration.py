"""A worker's load as it is reported, and the costs of its steps, learned from a sample of them."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from engine.engine import Engine
from engine.runner import Slice
from engine.schedule.step_times import StepTimes, StepWork, num_pairs
from wire.reports import Report, StepCosts, WorkerState, WorkerTotals

LEARN_EVERY_S = 5e-3
"""Least time between two steps that are learned from: each costs about 30 us."""
MIN_PROMPT_STEPS = 6
MIN_DECODE_STEPS = 12
"""Costs of a kind of step are reported once this many of them were learned from."""
MEAN_RATE = 0.02
"""Weight of the newest step in the mean contexts of its sequences and prompt tokens."""
NO_TOTALS = WorkerTotals()


class Calibration:
    """Seconds for each unit of work, learned from steps: from a step's plan to its last message."""

    def __init__(
        self, step_target_s: float | None = None, learn_every_s: float = LEARN_EVERY_S
    ) -> None:
        self.step_target_s = step_target_s
        self._learn_every_s = learn_every_s
        self._times = StepTimes()
        self._num_prompts = 0
        self._num_decodes = 0
        self._context = self._seen = 0.0
        """Mean context of a decoding sequence, and mean tokens that a prompt's token attends to."""
        self._next_s = 0.0

    def observe(self, slices: Seq[Slice], seconds: float, now: float) -> None:
        """Learn from a step, unless it follows the last one that was learned from too soon."""
        if self.is_due(now):
            self.learn(StepWork.of(slices), seconds, now)

    def is_due(self, now: float) -> bool:
        """Whether a step that ends now would be learned from."""
        return now >= self._next_s

    def learn(self, work: StepWork, seconds: float, now: float) -> None:
        """Learn from a step with this work, which ends now."""
        self._next_s = now + self._learn_every_s
        self._times.observe(work, seconds)
        self._num_prompts += work.prompt_tokens > 0
        self._num_decodes += work.num_decoding > 0
        if work.num_decoding:
            context = work.context_tokens / work.num_decoding
            self._context += max(MEAN_RATE, 1 / self._num_decodes) * (context - self._context)
        if work.prompt_tokens:
            seen = work.prompt_pairs / work.prompt_tokens
            self._seen += max(MEAN_RATE, 1 / self._num_prompts) * (seen - self._seen)

    @property
    def costs(self) -> StepCosts | None:
        """None before enough steps of any kind; coefficients of a kind without enough are None.

        What always grows together cannot be told apart, such as sequences of equal contexts and
        their contexts: where one of the two coefficients comes out negative, the other has all.
        """
        prompts, decodes = (
            self._num_prompts >= MIN_PROMPT_STEPS,
            self._num_decodes >= MIN_DECODE_STEPS,
        )
        if not (prompts or decodes):
            return None
        step_s, *others = self._times.per_unit()
        sequence_s, context_token_s = _not_negative(others[0], others[1], self._context)
        prompt_token_s, prompt_pair_s = _not_negative(others[2], others[3], self._seen)
        return StepCosts(
            step_s=max(0.0, step_s),
            sequence_s=sequence_s if decodes else None,
            context_token_s=context_token_s if decodes else None,
            prompt_token_s=prompt_token_s if prompts else None,
            prompt_pair_s=prompt_pair_s if prompts else None,
        )


def _not_negative(each: float, further: float, units: float) -> tuple[float, float]:
    """Two coefficients, neither negative, with the same sum for so many units of the second one."""
    whole = max(0.0, each + units * further)
    if each < 0 and units:
        return 0.0, whole / units
    return (whole, 0.0) if further < 0 else (max(0.0, each), further)


def load_of(
    engine: Engine,
    state: WorkerState,
    num_handoffs: int,
    seen_submits: dict[str, int],
    calibration: Calibration,
    totals: WorkerTotals = NO_TOTALS,
) -> Report:
    """The report of an engine's present work. `heard` has each router's last submission number."""
    unfinished = [*engine.waiting, *engine.running]
    prompts = [sequence for sequence in unfinished if not sequence.decoding]
    decoding = [sequence for sequence in engine.running if sequence.decoding]
    return Report(
        state=state,
        role=engine.policy.role,
        num_running=len(engine.running),
        num_waiting=len(engine.waiting)
        + len(engine.grammar_sequences.unready)
        + engine.memory.num_loading,
        waiting_tokens=sum(sequence.num_uncomputed for sequence in prompts),
        free_blocks=engine.pool.num_free,
        num_blocks=engine.pool.num_blocks,
        cached_blocks=engine.pool.num_cached,
        num_host_blocks=engine.memory.num_host_blocks,
        cached_host_blocks=engine.memory.num_host_cached,
        num_handoffs=num_handoffs,
        num_decoding=len(decoding),
        context_tokens=sum(sequence.num_computed for sequence in decoding),
        waiting_prompts=len(prompts),
        waiting_pairs=sum(
            num_pairs(sequence.num_uncomputed, sequence.num_computed) for sequence in prompts
        ),
        seen_submits=dict(seen_submits),
        costs=calibration.costs,
        step_target_s=calibration.step_target_s,
        totals=totals,
    )

"""What a worker that computes on the spot does while a step of other sequences is computed."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import pytest

from engine.runner import OnLayer, Outcome, Slice
from engine.runners.arithmetic_runner import ArithmeticRunner
from tests.worker.bench import PREFILL_STAMP, Bench, expected
from wire.handoff import Commit

pytestmark = pytest.mark.quick
CHUNK_TOKENS, NUM_CHUNKS = 8, 4
SHORT, LONG = [*range(CHUNK_TOKENS)], [*range(100, 100 + NUM_CHUNKS * CHUNK_TOKENS)]


class WritesWithinSteps:
    """Writes of blocks end within steps only; counts the commits that leave there."""

    def __init__(self, bench: Bench, runner: ArithmeticRunner) -> None:
        self.commits_within: list[str] = []
        self._bench = bench
        self._run = runner.run
        self._carry = bench.prefill.carry
        runner.run = self._run_and_carry  # type: ignore[method-assign]
        bench.prefill.carry = lambda: None  # type: ignore[method-assign]

    def end(self) -> None:
        """Writes end at any time again."""
        self._bench.prefill.carry = self._carry  # type: ignore[method-assign]

    def _run_and_carry(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> list[Outcome]:
        self._carry()
        before = len(self._commits())
        outcomes = self._run(slices, on_layer)
        self.commits_within += self._commits()[before:]
        return outcomes

    def _commits(self) -> list[str]:
        said = self._bench.prefill.outbox.for_peers
        return [each.attempt_id.request_id for _, each in said if isinstance(each, Commit)]


def test_a_commit_does_not_wait_for_a_step_of_another_prompt() -> None:
    """A chunk of a long prompt takes most of a second on a CPU: as long would the next token of
    everybody be late whose prompt was computed just before."""
    runner = ArithmeticRunner(stamp=PREFILL_STAMP, block_size=4, num_layers=2)
    decode_runner = ArithmeticRunner(stamp=2, block_size=4, num_layers=2)
    bench = Bench(prefill_runner=runner, decode_runner=decode_runner, chunk_tokens=CHUNK_TOKENS)
    writes = WritesWithinSteps(bench, runner)
    short = bench.submit("short", SHORT)
    long = bench.submit("long", LONG)
    bench.run(num_turns=2 + NUM_CHUNKS)
    assert writes.commits_within == ["short"]
    writes.end()
    bench.run()
    for attempt_id, prompt in ((short, SHORT), (long, LONG)):
        assert bench.tokens(attempt_id) == expected(prompt, [PREFILL_STAMP, 2, 2, 2])
    bench.check_nothing_is_held()

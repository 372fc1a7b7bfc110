"""Handoffs on a model of a device: nothing is touched too early, however late the device is."""

from __future__ import annotations

from typing import Any

import pytest

from kv_transfer.handoff.effects import Write
from tests.order.bench import OrderBench
from tests.order.bugs import BUGS, Bug
from tests.order.device import Drawn, Late, Prompt
from tests.worker.bench import DECODE_STAMP, PREFILL_STAMP, expected
from worker.steps import block_sender
from worker.steps.attempt_state import AttemptState
from worker.steps.block_sender import BlockSender
from worker.steps.step_loop import StepLoop

pytestmark = pytest.mark.quick

SCHEDULES = {
    "prompt": Prompt,
    "late": lambda: Late(2),
    "later": lambda: Late(5),
    **{f"seed {seed}": lambda seed=seed: Drawn(seed) for seed in range(6)},
}
LAYOUTS = {"in place": (4, 4), "staged": (4, 8)}
PROMPTS = [list(range(5, 26)), list(range(100, 113)), list(range(7, 36)), list(range(5, 26))]
"""Of 13 to 29 tokens: full blocks of 4, and one token."""

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.fixture(autouse=True)
def _every_layer_leaves_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_sender, "MIN_WRITE_BYTES", 1)


def a_bench(
    schedule: str, layout: str = "in place", decode_blocks: int | None = None
) -> OrderBench:
    return OrderBench(
        SCHEDULES[schedule](), block_sizes=LAYOUTS[layout], decode_blocks=decode_blocks
    )


@every_schedule
@every_layout
def test_no_handoff_touches_a_block_too_early(schedule: str, layout: str) -> None:
    bench = a_bench(schedule, layout)
    assert bench.problems(PROMPTS) == []
    bench.check_nothing_is_held()


def serve_with_early_ends(bench: OrderBench) -> None:
    """Answers end with a token that nobody foresees, after which a step too many is under way; the
    next sequence then comes into the blocks of the last."""
    stamps = [PREFILL_STAMP] + [DECODE_STAMP] * 5
    prompts = [list(range(n, n + 21)) for n in range(5, 500, 40)]
    ends = {expected(prompt, stamps)[3] for prompt in prompts}
    bench.decode.engine.runner.eos_token_ids = frozenset(ends)
    for number, prompt in enumerate(prompts):
        bench.submit(f"{number}", prompt, max_tokens=6)
        bench.run(number % 5 + 2)
    bench.run_until(bench.at_rest)


@every_schedule
def test_blocks_of_a_step_that_is_under_way_are_not_written_by_a_transfer(schedule: str) -> None:
    bench = a_bench(schedule, decode_blocks=9)
    serve_with_early_ends(bench)
    assert bench.order.faults == []
    bench.check_nothing_is_held()


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.what)
def test_a_seeded_bug_is_found(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bug.owner, bug.method, bug.broken)
    assert any(faults(schedule, layout) for schedule in SCHEDULES for layout in LAYOUTS)


def faults(schedule: str, layout: str) -> list[str]:
    bench = a_bench(schedule, layout)
    bench.serve(PROMPTS)
    tight = a_bench(schedule, layout, decode_blocks=9)
    serve_with_early_ends(tight)
    return bench.order.faults + tight.order.faults


@every_schedule
@every_layout
def test_nothing_is_waited_for_between_a_handoff_s_last_block_and_its_commit(
    schedule: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other prompts are computed meanwhile. Only looks at events come in between."""
    assert waits_before_commits(a_bench(schedule, layout), monkeypatch) == []


def test_a_step_of_others_that_a_commit_waits_for_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(StepLoop, "_until_over", lambda loop, step: None)
    found = [waits_before_commits(a_bench(schedule), monkeypatch) for schedule in SCHEDULES]
    assert {"wait for steps"} in [set(waits) for waits in found]


def waits_before_commits(bench: OrderBench, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Waits of the source, in any of its threads, from a request's last write to its commit."""

    def noted(sender: BlockSender, attempt: AttemptState, write: Write, perform: Any) -> None:
        bench.source.trace.append(f"send {attempt.sequence.attempt_id.request_id}")
        post(sender, attempt, write, perform)

    with monkeypatch.context() as patch:
        post = BlockSender.post
        patch.setattr(BlockSender, "post", noted)
        assert bench.problems(PROMPTS) == []
    trace, found = bench.source.trace, list[str]()
    for name in "abcd":
        committed = trace.index(f"commit {name}")
        sent = max(place for place, what in enumerate(trace) if what == f"send {name}")
        assert sent < committed
        found += [what for what in trace[sent:committed] if what.startswith("wait")]
    return found

"""In any order of requests, steps, copies and departures, tokens are those of the formula.

Pools are small, so that blocks are evicted, saved, loaded, shared and swapped all the time.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from decode_worker.scheduler import DecodePolicy
from engine.schedule.policy import Policy
from engine.sequence import Sequence, Status
from prefill_worker.scheduler import PrefillPolicy
from tests.engine.tiers import Tiered, answer, expected, learn

pytestmark = pytest.mark.quick

PLACES = st.integers(0, 7)


class MemoryWalk(RuleBasedStateMachine):
    @initialize(
        num_blocks=st.sampled_from([12, 16, 24]),
        num_host_blocks=st.sampled_from([1, 6, 40]),
        policy=st.sampled_from([DecodePolicy(8, 5), DecodePolicy(8, 5, headroom_blocks=0)])
        | st.builds(PrefillPolicy, chunk_tokens=st.sampled_from([5, 64])),
        ahead=st.booleans(),
    )
    def begin(self, num_blocks: int, num_host_blocks: int, policy: Policy, ahead: bool) -> None:
        self.tiered = Tiered(num_blocks, num_host_blocks, policy, ahead=ahead)
        learn(self.tiered, seconds_per_token=1e-3)
        self.asked: list[tuple[Sequence, list[int], int]] = []
        self.dropped: set[Sequence] = set()

    @rule(
        family=st.sampled_from([0, 0, 0, 50, 60]),
        length=st.integers(1, 30),
        parts_at=st.integers(1, 40),
        max_tokens=st.sampled_from([1, 2, 5, 15]),
    )
    def ask(self, family: int, length: int, parts_at: int, max_tokens: int) -> None:
        """Prompts of a family are alike up to where one parts from the others."""
        number = len(self.asked)
        prompt = [family + i + (100 * number if i >= parts_at else 0) for i in range(length)]
        sequence = self.tiered.add(f"r{number}", [t % 2048 for t in prompt], max_tokens)
        self.asked.append((sequence, [t % 2048 for t in prompt], max_tokens))

    @precondition(lambda self: self.asked)
    @rule(place=PLACES, more=st.integers(0, 5))
    def go_on(self, place: int, more: int) -> None:
        """The next turn of a conversation."""
        before = self.asked[place % len(self.asked)][0].tokens
        if len(before) + more < 40:
            prompt = [*before, *range(900, 900 + more)]
            sequence = self.tiered.add(f"r{len(self.asked)}", prompt, 3)
            self.asked.append((sequence, prompt, 3))

    @rule(count=st.integers(1, 6))
    def step(self, count: int) -> None:
        self.tiered.step(count)

    @rule(count=st.integers(1, 4))
    def copy(self, count: int) -> None:
        for _ in range(count):
            self.tiered.copier.turn()

    @rule(count=st.integers(1, 8))
    def run(self, count: int) -> None:
        for _ in range(count):
            self.tiered.copier.turn()
            self.tiered.step()

    @precondition(lambda self: self.asked)
    @rule(place=PLACES)
    def drop(self, place: int) -> None:
        sequence = self.asked[place % len(self.asked)][0]
        self.tiered.engine.settle()
        self.tiered.engine.drop(sequence)
        self.dropped.add(sequence)

    @precondition(lambda self: self.tiered.engine.running)
    @rule(place=PLACES)
    def hold(self, place: int) -> None:
        """As while a handoff waits for its verdict."""
        self.tiered.engine.settle()
        running = self.tiered.engine.running
        if running:
            self.tiered.engine.hold(running[place % len(running)])

    @precondition(lambda self: self.tiered.engine.held)
    @rule(place=PLACES)
    def resume(self, place: int) -> None:
        held = list(self.tiered.engine.held.values())
        self.tiered.engine.resume(held[place % len(held)])

    @rule(seconds=st.sampled_from([0.1, 60.0]))
    def pass_time(self, seconds: float) -> None:
        self.tiered.now += seconds

    @rule(num_bytes=st.sampled_from([1, 1 << 30]))
    def learn(self, num_bytes: int) -> None:
        """Copies have become quicker or slower than computing."""
        for _ in range(30):
            self.tiered.tier.costs.observe_copy(num_bytes, 1.0)

    @invariant()
    def both_pools_are_whole(self) -> None:
        if hasattr(self, "tiered"):
            self.tiered.engine.memory.check_integrity()

    def teardown(self) -> None:
        if not hasattr(self, "tiered"):
            return
        for sequence in list(self.tiered.engine.held.values()):
            self.tiered.engine.resume(sequence)
        self.tiered.finish()
        for sequence, prompt, max_tokens in self.asked:
            assert sequence.status is Status.FINISHED
            count = len(answer(sequence)) if sequence in self.dropped else max_tokens
            assert answer(sequence) == expected(prompt, count)


TestMemoryWalk = MemoryWalk.TestCase
TestMemoryWalk.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)

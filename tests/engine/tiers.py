"""An engine with host memory behind its cache, whose copies are made when a test says so."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from decode_worker.scheduler import DecodePolicy
from engine.async_engine import AsyncEngine
from engine.cache.block_copier import HostCopier, allocate_host
from engine.cache.block_pool import BlockPool
from engine.cache.host_tier import HostTier
from engine.engine import Engine
from engine.runner import Slice
from engine.runners.arithmetic_runner import ArithmeticRunner, next_token
from engine.schedule.policy import Policy
from engine.sequence import Sequence
from wire.identity import AttemptId
from wire.sampling import SamplingParams
from wire.traits import NO_TRAITS, RequestTraits


class Tiered:
    """Blocks of 4 tokens; `now` is the tier's clock."""

    def __init__(
        self,
        num_blocks: int,
        num_host_blocks: int,
        policy: Policy | None = None,
        *,
        ahead: bool = False,
    ) -> None:
        self.now = 0.0
        runner = ArithmeticRunner(block_size=4, runs_ahead=ahead)
        cache, block_bytes = runner.allocate(num_blocks), runner.layout.block_bytes
        host = allocate_host(num_host_blocks * block_bytes)
        self.copier = HostCopier(cache, host, block_bytes)
        self.pool = BlockPool(num_blocks)
        self.tier = HostTier(
            self.pool, num_host_blocks, runner.layout, self.copier, lambda: self.now
        )
        kind = AsyncEngine if ahead else Engine
        self.engine = kind(runner, self.pool, policy or DecodePolicy(), None, self.tier)

    def add(
        self,
        name: str,
        prompt: Seq[int],
        max_tokens: int = 4,
        traits: RequestTraits = NO_TRAITS,
    ) -> Sequence:
        sampling = SamplingParams(max_tokens=max_tokens)
        sequence = Sequence(AttemptId(name), list(prompt), sampling, traits=traits)
        self.engine.add(sequence)
        return sequence

    def step(self, num_steps: int = 1) -> None:
        """Steps without copies in between."""
        for _ in range(num_steps):
            self.engine.step()
            self.engine.memory.check_integrity()

    def copy(self) -> None:
        """All that wait, and the engine hears of it."""
        while self.copier.turn():
            self.engine.memory.check_integrity()

    def finish(self) -> None:
        """Until nothing is left to do, and what fell out of use last is saved."""
        self.step()
        while self.engine.busy:
            self.copy()
            self.step()
            if not self.engine.busy:
                self.step()
        assert self.pool.num_free == self.pool.num_blocks
        assert not self.tier.pool.used_blocks()

    def run(
        self,
        name: str,
        prompt: Seq[int],
        max_tokens: int = 4,
        traits: RequestTraits = NO_TRAITS,
    ) -> Sequence:
        sequence = self.add(name, prompt, max_tokens, traits)
        self.finish()
        assert answer(sequence) == expected(prompt, max_tokens)
        return sequence


def learn(tiered: Tiered, seconds_per_token: float) -> None:
    """Steps with prompts took so long."""
    for _ in range(2):
        for count in (8, 16, 32):
            sequence = Sequence(AttemptId("any"), [1] * count, SamplingParams(max_tokens=1))
            tiered.tier.costs.observe_step([Slice(sequence, 0, count)], count * seconds_per_token)


def answer(sequence: Sequence) -> list[int]:
    return sequence.tokens[sequence.num_prompt :]


def expected(prompt: Seq[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens, 0, 2048))
    return tokens[len(prompt) :]

"""A worker of the simulation: the real engine and policy, with a clock for a model."""

from __future__ import annotations

import random
from collections.abc import Sequence as Seq

import msgspec

from decode_worker.scheduler import DecodePolicy
from engine.cache.block_pool import BlockPool
from engine.engine import Engine
from engine.runner import CacheRegion, Collect, OnLayer, Sampled, Slice
from engine.schedule.policy import Policy
from engine.schedule.step_times import StepWork
from prefill_worker.scheduler import PrefillPolicy
from wire.identity import Role
from wire.layout import KvLayout


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """What a step takes, in seconds, and how much fits: a model of 8 billion parameters on a GPU
    with 3 TB/s of memory and 500 TFLOP/s of use."""

    step_s: float = 6e-3
    sequence_s: float = 3e-5
    context_token_s: float = 4.4e-8
    prompt_token_s: float = 3.2e-5
    prompt_pair_s: float = 1.7e-9
    noise: float = 0.03
    pool_tokens: int = 450_000
    bytes_per_s: float = 20e9
    latency_s: float = 1e-3

    def seconds(self, work: StepWork) -> float:
        return (
            self.step_s
            + self.sequence_s * work.num_decoding
            + self.context_token_s * work.context_tokens
            + self.prompt_token_s * work.prompt_tokens
            + self.prompt_pair_s * work.prompt_pairs
        )

    def prefill_s(self, num_tokens: int, chunk_tokens: int = 512) -> float:
        """Of a prompt that has a worker to itself."""
        pairs = num_tokens * num_tokens / 2
        alone = self.prompt_token_s * num_tokens + self.prompt_pair_s * pairs
        return alone + -(-num_tokens // chunk_tokens) * self.step_s


LAYOUT = KvLayout(num_layers=32, num_kv_heads=8, head_size=128, block_size=512, dtype="float16")


class TimedRunner:
    """Draws 0 for every sequence; nothing is computed, nothing is stored."""

    layout = LAYOUT
    vocab_size = 1 << 31
    max_model_len = 1 << 18
    eos_token_ids: frozenset[int] = frozenset()
    model_hash = checksum_kind = "simulated"
    runs_ahead = False

    def run(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> list[Sampled | None]:
        return [Sampled(0) if piece.samples else None for piece in slices]

    def launch(self, slices: Seq[Slice], on_layer: OnLayer | None = None) -> Collect:
        return lambda: self.run(slices)

    def fit_num_blocks(self, cache_bytes: int | None, cache_fraction: float) -> int:
        raise NotImplementedError("the simulation sizes its pools itself")

    def allocate(self, num_blocks: int) -> CacheRegion:
        raise NotImplementedError("the simulation has no cache")

    def copy_block(self, source: int, target: int) -> None:
        return

    def close(self) -> None:
        return

    def checksum(self, blocks: Seq[int], first: int) -> int:
        return 0


def make_engine(role: Role, device: Device, tpot_target_s: float | None) -> Engine:
    policy: Policy
    if role is Role.PREFILL:
        policy = PrefillPolicy(tpot_target_s=tpot_target_s)
    else:
        policy = DecodePolicy(tpot_target_s=tpot_target_s)
    pool = BlockPool(device.pool_tokens // LAYOUT.block_size)
    return Engine(TimedRunner(), pool, policy)


class Stopwatch:
    """How long steps take on one device: as the device says, give or take."""

    def __init__(self, device: Device, seed: int) -> None:
        self._device = device
        self._draw = random.Random(seed)

    def seconds(self, slices: Seq[Slice]) -> float:
        exact = self._device.seconds(StepWork.of(slices))
        return exact * self._draw.lognormvariate(0.0, self._device.noise)

"""Host time of a decode step: what Python does for it, without the model.

The engine and the runner take their own steps, whose recorded graphs compute nothing, on a CPU:
from sequences to inputs that are ready for the device, and from draws to progress. CPU time of one
thread, so that a busy machine does not show.

python -m benchmarks.host_step
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from decode_worker.scheduler import DecodePolicy
from engine.async_engine import AsyncEngine
from engine.attention.flashinfer_backend import BlockTables
from engine.cache.block_pool import BlockPool
from engine.model.config import ModelConfig
from engine.model.parameters import allocate_parameters
from engine.model.rope_config import DefaultRope
from engine.model.transformer import Transformer
from engine.runners.cache_shape import cache_layout
from engine.runners.captured_step import Compute
from engine.runners.torch_runner import StepSettings, TorchRunner
from engine.sequence import Sequence
from wire.identity import AttemptId
from wire.sampling import SamplingParams

CASES = ((32, 2048), (32, 8192), (256, 2048))
"""Sequences, and tokens of each."""
BLOCK_SIZE = 16
NUM_STEPS = 200
WARM_UP = 20
CPU = torch.device("cpu")
CONFIG = ModelConfig(
    architecture="LlamaForCausalLM",
    vocab_size=32,
    hidden_size=8,
    intermediate_size=8,
    num_heads=1,
    num_kv_heads=1,
    head_size=8,
    rms_norm_eps=1e-5,
    max_position_embeddings=16384,
    max_model_len=16384,
    rope=DefaultRope(theta=1e4),
    windows=(None,),
    tied_embeddings=False,
    qkv_bias=False,
    output_bias=False,
    mlp_bias=False,
    qk_norm=False,
    eos_token_ids=(),
)


@dataclass(eq=False)
class Timed:
    """Measures calls of a function, in microseconds."""

    function: Callable[..., object]
    taken: list[float] = field(default_factory=list)

    def __call__(self, *arguments: object) -> object:
        began = time.thread_time_ns()
        try:
            return self.function(*arguments)
        finally:
            self.taken.append((time.thread_time_ns() - began) / 1000)

    @property
    def fast(self) -> float:
        """The tenth percentile: what the code takes where no neighbour shares its core."""
        return statistics.quantiles(self.taken[WARM_UP:], n=10)[0]


def main() -> None:
    torch.set_num_threads(1)
    names = "  engine.step   launch  graph inputs  FlashInfer"
    print(f"microseconds a step, 10th percentiles\n{'rows x tokens':>15}{names}")
    for rows, tokens in CASES:
        print(f"{rows:>8} x {tokens}" + "".join(measure(rows, tokens)))


def measure(num_sequences: int, num_tokens: int) -> list[str]:
    blocks_each = -(-(num_tokens + NUM_STEPS) // BLOCK_SIZE)
    num_blocks = num_sequences * blocks_each
    runner = a_runner(num_blocks, num_sequences)
    engine = AsyncEngine(runner, BlockPool(num_blocks), DecodePolicy())
    for number in range(num_sequences):
        engine.adopt(a_sequence(engine, number, num_tokens))
    graphs = runner._graphs
    assert graphs is not None
    step, launch, inputs = Timed(engine.step), Timed(runner.launch), Timed(graphs.run)
    plan, planned = Timed(BlockTables.of_rows), list[tuple[object, object]]()
    runner.launch, graphs.run = launch, inputs  # type: ignore[assignment, method-assign]
    graphs._attention.plan = lambda *rows: planned.append(rows)  # type: ignore[method-assign]
    for _ in range(NUM_STEPS - 1):
        step()
        plan(*planned[-1], BLOCK_SIZE, CPU)
    widths = {step: 13, launch: 9, inputs: 14, plan: 12}
    return [f"{timed.fast:>{width}.0f}" for timed, width in widths.items()]


def a_runner(num_blocks: int, max_sequences: int) -> TorchRunner:
    """Its recorded steps find their logits made."""
    model = Transformer(CONFIG, allocate_parameters(CONFIG, torch.float32, CPU), CPU, native=False)
    layout = cache_layout(CONFIG, BLOCK_SIZE, torch.float32)
    settings = StepSettings(graphs="lazy", max_sequences=max_sequences)
    runner = TorchRunner(
        CONFIG, model, layout, CPU, model_hash="", max_model_len=16384, settings=settings
    )
    runner.allocate(num_blocks + 1)
    made = torch.zeros(max_sequences, CONFIG.vocab_size)

    def capture(_: Compute) -> Compute:
        def replay() -> Tensor:
            return made

        return replay

    runner.capture_steps(capture, spare_block=num_blocks)
    return runner


def a_sequence(engine: AsyncEngine, number: int, num_tokens: int) -> Sequence:
    """As it comes from a prefill worker: all but the last token are computed."""
    sampling = SamplingParams(max_tokens=2 * NUM_STEPS, temperature=0.0, ignore_eos=True)
    sequence = Sequence(
        AttemptId(f"request-{number}"),
        [(number + place) % 32 for place in range(num_tokens + 1)],
        sampling,
        num_prompt=num_tokens,
    )
    blocks = engine.pool.try_allocate(-(-(num_tokens + 1) // BLOCK_SIZE))
    assert blocks is not None
    sequence.blocks, sequence.num_computed = blocks, num_tokens
    return sequence


if __name__ == "__main__":
    main()

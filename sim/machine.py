"""How long one worker's machine takes for steps and for writes of KV blocks, and what fits."""

from __future__ import annotations

import msgspec

from engine.schedule.step_times import StepWork
from wire.layout import KvLayout

LAYOUT = KvLayout(num_layers=32, num_kv_heads=8, head_size=128, block_size=512, dtype="float16")
"""A model of 8 billion parameters. Blocks of 512 tokens are quicker to simulate than of 16."""


class MachineModel(msgspec.Struct, frozen=True, kw_only=True):
    """Linear costs of a step, in seconds: by default those of a model of 8 billion parameters on a
    GPU with 3 TB/s of memory bandwidth and 500 TFLOP/s of use."""

    step_s: float = 6e-3
    """A step's fixed part: the weights are read once."""
    sequence_s: float = 3e-5
    """Each sequence that decodes."""
    context_token_s: float = 4.4e-8
    """Each cached token that a decoding sequence reads."""
    prompt_token_s: float = 3.2e-5
    prompt_pair_s: float = 1.7e-9
    """Each pair of a prompt's token and a token that it attends to."""
    device: str = ""
    """Kind of device, as workers tell it."""
    noise: float = 0.03
    """Standard deviation of the logarithm of a step's duration."""
    pool_tokens: int = 450_000
    """Capacity of the KV cache."""
    max_model_len: int = 1 << 18
    layout: KvLayout = LAYOUT
    bytes_per_s: float = 20e9
    """What the network interface sends, over all links together."""
    latency_s: float = 1e-3
    """From a write's last byte until the source knows that it has arrived."""

    @property
    def num_blocks(self) -> int:
        return self.pool_tokens // self.layout.block_size

    def seconds(self, work: StepWork) -> float:
        """A step's duration without noise."""
        return (
            self.step_s
            + self.sequence_s * work.num_decoding
            + self.context_token_s * work.context_tokens
            + self.prompt_token_s * work.prompt_tokens
            + self.prompt_pair_s * work.prompt_pairs
        )

    def with_block_size(self, block_size: int) -> MachineModel:
        """The same machine with KV blocks of so many tokens."""
        layout = msgspec.structs.replace(self.layout, block_size=block_size)
        return msgspec.structs.replace(self, layout=layout)

    def prefill_s(self, num_tokens: int, chunk_tokens: int = 512) -> float:
        """Prefill of a prompt that has a worker to itself."""
        pairs = num_tokens * num_tokens / 2
        alone = self.prompt_token_s * num_tokens + self.prompt_pair_s * pairs
        return alone + -(-num_tokens // chunk_tokens) * self.step_s

"""Workers of several ranks play: a small model, its answers alone, and a pool in several parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.runners.torch_loading import load_torch_runner
from kv_transfer.layout.checksum import wait_for
from tests.engine.checkpoints import Recipe, llama, write
from tests.engine.driver import decode, make_sequence, output
from tests.faults.scene import MIB, Scene
from tests.faults.survivor import Survivor
from wire.identity import Role

SILENCE_S = 4.0
CACHE_BYTES = 32 * MIB
"""Of all ranks of a worker."""
MODEL = Recipe(
    lambda: llama(
        vocab_size=4096,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=2048,
    )
)
"""16 KiB of cache for a token."""


class RankScene(Scene):
    num_prompt_tokens = 1200

    def __init__(self, ucx_tls: str | None, degrees: dict[Role, int], directory: Path) -> None:
        super().__init__(ucx_tls)
        self._degrees = degrees
        self._directory = write(MODEL, directory)
        self._alone = load_torch_runner(self._directory, device="cpu", block_size=16)
        self._alone.allocate(-(-2 * self.num_prompt_tokens // 16))

    def settings(self, role: Role) -> dict[str, Any]:
        degree = self._degrees[role]
        return {
            **self._patience(role),
            "model": str(self._directory),
            "device": "cpu",
            "threads": 1,
            "chunk_tokens": 32,
            "tensor_parallel_size": degree,
            "cache_bytes": CACHE_BYTES // degree,
            "rank_silence_s": SILENCE_S,
        }

    def survivor(self, role: Role) -> Survivor:
        return RankSurvivor(role, self.settings(role))

    def is_right(self, prompt: list[int], tokens: list[int]) -> bool:
        sequence = make_sequence(prompt)
        sequence.blocks = list(range(-(-(len(prompt) + len(tokens)) // 16)))
        decode(self._alone, [sequence], len(tokens))
        return output(sequence) == tokens


class RankSurvivor(Survivor):
    """A part of its pool is in other processes: these are asked to fill it, and what is in it."""

    def _occupy(self) -> list[int]:
        blocks = self._allocate()
        for block in blocks[1:]:
            self.worker.engine.runner.copy_block(blocks[0], block)
        self._checksum = self._read(blocks)
        return blocks

    def _is_changed(self, blocks: list[int]) -> bool:
        return self._read(blocks) != self._checksum

    def _read(self, blocks: list[int]) -> int:
        endpoint = self.worker._endpoint
        return wait_for(endpoint.checksum(endpoint.layout)(blocks, 0))

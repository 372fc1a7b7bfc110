"""How a prefill worker schedules: prompts one after the other, in chunks, first come first."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from engine.policy import Room, Share
from engine.sequence import Sequence
from worker.config import WorkerConfig


@dataclass(frozen=True)
class PrefillPolicy:
    """Finishing one prompt before starting the next gives the lowest mean time to first token.

    `chunk_tokens` bounds a step: after each chunk its blocks can leave for the decode worker while
    the next is computed. Sequences that this worker decodes itself ride along, one token a step.
    """

    chunk_tokens: int = 512
    max_sequences: int = 64

    def admits(self, room: Room, num_new_blocks: int) -> bool:
        return room.num_running < self.max_sequences and num_new_blocks <= room.free_blocks

    def plan(self, running: Seq[Sequence]) -> list[Share]:
        budget = self.chunk_tokens
        shares = []
        for sequence in sorted(running, key=lambda s: not s.decoding):
            count = min(sequence.num_uncomputed, budget)
            if count > 0:
                shares.append(Share(sequence, count))
                budget -= count
        return shares


def make_policy(config: WorkerConfig) -> PrefillPolicy:
    return PrefillPolicy(chunk_tokens=config.chunk_tokens, max_sequences=config.max_sequences)

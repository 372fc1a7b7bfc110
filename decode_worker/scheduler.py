"""How a decode worker schedules: every running sequence one token a step, prompts in the gaps."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from engine.policy import Room, Share
from engine.sequence import Sequence
from worker.config import WorkerConfig


@dataclass(frozen=True)
class DecodePolicy:
    """Decode steps come first; prompt chunks that this worker computes itself are kept short.

    `prefill_tokens` bounds how many prompt tokens ride along in a step that also decodes, because
    each of them delays every stream's next token; without a decoding sequence a step may take
    `chunk_tokens`. `headroom_blocks` stay free at admission, for running sequences to grow into.
    """

    chunk_tokens: int = 512
    prefill_tokens: int = 128
    max_sequences: int = 256
    headroom_blocks: int = 1

    def admits(self, room: Room, num_new_blocks: int) -> bool:
        headroom = self.headroom_blocks * min(room.num_running, 8)
        fits = num_new_blocks + headroom <= room.free_blocks
        return room.num_running < self.max_sequences and fits

    def plan(self, running: Seq[Sequence]) -> list[Share]:
        shares, prompts = [], []
        for sequence in running:
            if sequence.decoding:
                shares.append(Share(sequence, 1))
            else:
                prompts.append(sequence)
        budget = self.prefill_tokens if shares else self.chunk_tokens
        for sequence in prompts:
            if budget > 0:
                count = min(sequence.num_uncomputed, budget)
                shares.append(Share(sequence, count))
                budget -= count
        return shares


def make_policy(config: WorkerConfig) -> DecodePolicy:
    return DecodePolicy(chunk_tokens=config.chunk_tokens, max_sequences=config.max_sequences)

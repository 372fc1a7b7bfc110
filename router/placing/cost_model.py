"""The cost of a request on each worker, in seconds for itself and for others; vectorized over
workers.

Step durations are linear in their work, as in DistServe (OSDI 2024), and each worker reports its
own coefficients. The predictions are compared with targets elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from router.placing.fleet_table import HOST_BYTES_PER_S, FleetTable, Floats
from router.placing.placement_request import RequestSize

RISK_BEGINS, RISK_WIDTH = 0.85, 0.3
"""Risk of missing a target, as fractions of it: none below the first, certain beyond the sum of
both."""


@dataclass(frozen=True, slots=True)
class Hits:
    """By row, how many leading tokens of a prompt are cached there."""

    device: Floats
    either: Floats
    """On the device or in the host's memory."""

    @staticmethod
    def none(num_rows: int) -> Hits:
        nothing = np.zeros(num_rows)
        return Hits(nothing, nothing)


@dataclass(frozen=True, slots=True)
class Costs:
    """Arrays over rows; seconds, where the name does not say otherwise."""

    prompt_s: Floats
    """Computing the uncached part: what it takes from everything else there."""
    machine_s: Floats
    """`prompt_s`, and the steps that run for this request alone."""
    prefill_s: Floats
    """From its first step to its last, with what runs beside it."""
    queue_s: Floats
    """Prompts that come before."""
    queued_steps: Floats
    """`queue_s` in steps; below 1, a step has room for more prompt tokens."""
    ttft_s: Floats
    """From now to the first token."""
    step_s: Floats
    """A decode step there with this sequence in it, prompts aside."""
    mixed_s: Floats
    """`step_s` with a full chunk of a prompt in the step: the longest time per token."""
    interrupted_s: Floats
    """Recent interruptions of a decoding sequence by prompts."""
    growth_s: Floats
    """The increase of each decode step by this sequence."""
    num_decoding: Floats
    """Sequences that decode there, or will."""
    missing: Floats
    """Share of the sequence, 0 to 1, for which the pool has no room."""


def estimate(table: FleetTable, work: RequestSize, hits: Hits, now: float) -> Costs:
    prompt, answer = work.num_prompt_tokens, work.num_new_tokens
    cached = np.minimum(hits.either, prompt - 1)
    uncached = prompt - cached
    num_decoding = table.num_decoding + table.num_expected
    context = table.context_tokens + table.expected_context
    running_s = table.step_s + table.sequence_s * num_decoding + table.context_token_s * context
    each_s = table.prompt_token_s + table.prompt_pair_s * (cached + uncached / 2)
    prompt_s = each_s * uncached
    if hits.either is not hits.device:
        from_host = np.maximum(0.0, cached - hits.device)
        prompt_s = prompt_s + from_host * table.token_bytes / HOST_BYTES_PER_S
    mixed_chunk = table.mixed_chunk_tokens
    if np.count_nonzero(table.step_target_s):
        left = (table.step_target_s - running_s) / np.maximum(each_s, 1e-9)
        within = np.minimum(np.maximum(left, table.min_chunk_tokens), table.chunk_tokens)
        mixed_chunk = np.where(table.step_target_s > 0, within, mixed_chunk)
    chunk = np.where(num_decoding > 0, mixed_chunk, table.chunk_tokens)
    num_steps = np.ceil(uncached / chunk)
    prefill_s = prompt_s + num_steps * running_s
    queued_steps = table.queued_tokens / chunk
    queue_s = (
        table.prompt_token_s * table.queued_tokens
        + table.prompt_pair_s * table.queued_pairs
        + queued_steps * running_s
    )
    alone_s = np.where(num_decoding > 0, 0.0, num_steps * table.step_s)
    growth_s = table.sequence_s + table.context_token_s * (prompt + answer / 2)
    wanted = prompt + answer
    free = table.pool_tokens - table.used_tokens - table.expected_tokens
    return Costs(
        prompt_s=prompt_s,
        machine_s=prompt_s + alone_s,
        prefill_s=prefill_s,
        queue_s=queue_s,
        queued_steps=queued_steps,
        ttft_s=_overtaking(table, uncached, queue_s, prefill_s),
        step_s=running_s + growth_s,
        mixed_s=running_s + growth_s + mixed_chunk * each_s,
        interrupted_s=table.interruptions(now),
        growth_s=growth_s,
        num_decoding=num_decoding,
        missing=_share((wanted - free) / wanted),
    )


def _overtaking(table: FleetTable, uncached: Floats, queue_s: Floats, prefill_s: Floats) -> Floats:
    """Seconds to the end of a prompt; one that is much shorter than those that wait has half of
    each step."""
    usual, ratio = table.queued_tokens / np.maximum(1.0, table.num_prompts), table.overtaking_ratio
    overtakes = uncached * ratio <= usual
    waits_s = np.where(overtakes, np.minimum(queue_s, prefill_s + queue_s / ratio), queue_s)
    until_s: Floats = waits_s + prefill_s
    return until_s


def risk(seconds: Floats, target_s: float | None) -> Floats:
    """0 well within the target, 1 well beyond it; predictions are never exact."""
    if target_s is None:
        return np.zeros_like(seconds)
    scaled = seconds * (1 / (target_s * RISK_WIDTH))
    scaled -= RISK_BEGINS / RISK_WIDTH
    return _share(scaled)


def exposed_s(num_bytes: float, prefill_s: float, latency_s: float, bytes_per_s: float) -> float:
    """Handoff time after the last chunk; earlier blocks are transferred while later ones are
    computed."""
    transfer_s = num_bytes / bytes_per_s
    return latency_s + max(transfer_s / 8, transfer_s - 0.8 * prefill_s)


def _share(values: Floats) -> Floats:
    """The values, limited to [0, 1]."""
    nothing, all_of_it = _bounds(len(values))
    np.maximum(values, nothing, out=values)
    return np.minimum(values, all_of_it, out=values)


@lru_cache(8)
def _bounds(num_rows: int) -> tuple[Floats, Floats]:
    """Zeros and ones: beside numbers NumPy's bounds take twice as long, and np.clip thrice."""
    return np.zeros(num_rows), np.ones(num_rows)

"""Four runs of vLLM 0.19: a step's coefficients fitted to each, and its requests served again.

The records (300 ShareGPT requests at 10/s, per-request times) are those that LLMServingSim (KAIST)
publishes. Coefficients come from the times between first and last tokens; the times to first
tokens, which are mostly queueing, are predicted.

Assumed: the worker's policy with vLLM's limits (2,048 tokens a step, prompts beside decoding
sequences, as many sequences as the run allowed); no shared prefixes; steps without noise. After
the fit all coefficients are scaled once, by the measured over the simulated mean TPOT, because the
records tell only how many tokens came between two times, not in which steps. Qwen3-30B-A3B ran on
two ranks, whose steps wait for each other: it is one worker with twice the batch. On the RTX 4090
sequences were preempted, which the records do not tell: there the coefficients come from the
second-by-second log, by least absolute deviations, with the context's cost from the data sheet,
because the cache was full nearly always.
"""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.published.result import Result, needed
from router.placing.placement_request import Split
from sim.devices.device import Coefficients
from sim.devices.fit import NAMES, non_negative
from sim.devices.request_records import ServedRequest, fit_requests
from sim.machine import LAYOUT, MachineModel
from sim.request import RequestResult
from sim.router import RouterSettings
from sim.simulation import SimulatedCluster, WorkerPool
from sim.traces import BLOCK_TOKENS, Arrival
from sim.worker import SETTINGS
from wire.identity import Role

SOURCE = "casys-kaist/LLMServingSim, its real vLLM runs, as measured/llmservingsim-vllm-runs"
STEP_TOKENS = 2048
TPOT_BAR, TTFT_BAR = 0.03, 0.10
AMPLE_TOKENS = 2_000_000
RTX4090_BYTES_PER_S = 1008e9
"""NVIDIA's data sheet."""


class Run(msgspec.Struct, frozen=True):
    """One run; `pool_tokens` is the KV cache of its log, or one that is never full."""

    name: str
    max_sequences: int
    num_ranks: int = 1
    pool_tokens: int = AMPLE_TOKENS
    from_seconds: bool = False
    """Whether the coefficients come from the log by seconds."""


RUNS = (
    Run("RTXPRO6000_Llama-3.1-8B", 128),
    Run("RTXPRO6000_Qwen3-32B", 128),
    Run("RTXPRO6000_Qwen3-30B-A3B-Instruct-2507", 128, num_ranks=2),
    Run("RTX4090_Llama-3.1-8B", 256, pool_tokens=2588 * 16, from_seconds=True),
)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One line of requests.jsonl; arrivals are of another clock than the rest."""

    input_toks: int
    output_toks: int
    arrival_time: float
    queued_ts: float
    scheduled_ts: float
    first_token_ts: float
    last_token_ts: float


def results(measured: Path) -> list[Result]:
    """TTFT and TPOT of all runs. Raises DataMissing."""
    folder = needed(measured / "llmservingsim-vllm-runs", SOURCE)
    return [result for run in RUNS for result in replay(run, folder / run.name)]


def replay(run: Run, folder: Path) -> list[Result]:
    """Fit the run's coefficients, serve its requests with them, and compare."""
    lines = (folder / "requests.jsonl").read_text().splitlines()
    records = [msgspec.convert(json.loads(line), Record) for line in lines]
    first = fit_seconds(folder, run) if run.from_seconds else fit_requests(_served(records))
    tpot_s = _mean_tpot_s(records)
    factor = tpot_s / _simulated_tpot_s(_serve(run, first, records))
    served = _serve(run, scaled(first, factor), records)
    name = run.name.replace("_", " ")
    return [
        Result(
            setting=name,
            quantity="TTFT mean, s",
            published=_mean_ttft_s(records),
            ours=float(np.mean([each.ttft_s for each in served])),
            bar=TTFT_BAR,
        ),
        Result(
            setting=name,
            quantity="TPOT mean, ms",
            published=1e3 * tpot_s,
            ours=1e3 * _simulated_tpot_s(served),
            bar=TPOT_BAR,
        ),
        Result(
            setting=name,
            quantity="TPOT mean before scaling, ms",
            published=1e3 * tpot_s,
            ours=1e3 * tpot_s / factor,
            bar=TPOT_BAR,
        ),
    ]


def scaled(coefficients: Coefficients, factor: float) -> Coefficients:
    changed = {name: factor * getattr(coefficients, name) for name in NAMES}
    return msgspec.structs.replace(coefficients, **changed)


def fit_seconds(folder: Path, run: Run) -> Coefficients:
    """From the sums of each second of timeseries.csv."""
    with (folder / "timeseries.csv").open(newline="") as lines:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]
    context_s = LAYOUT.token_bytes / RTX4090_BYTES_PER_S
    work, left = [], []
    for before, row in pairwise(rows):
        running = (before["running"] + row["running"]) / 2
        if min(before["running"], row["running"]) < 1:
            continue
        steps = row["gen_throughput"] / running
        cached = (before["kv_cache_pct"] + row["kv_cache_pct"]) / 200 * run.pool_tokens
        work.append([steps, row["gen_throughput"], row["prompt_throughput"]])
        left.append(1.0 - context_s * steps * cached)
    step_s, sequence_s, prompt_token_s = _least_deviations(np.array(work), np.array(left))
    return Coefficients(
        step_s=step_s,
        sequence_s=sequence_s,
        context_token_s=context_s,
        prompt_token_s=prompt_token_s,
        noise=0.0,
    )


def _least_deviations(rows: np.ndarray, values: np.ndarray) -> list[float]:
    """Least absolute deviations, by reweighted least squares."""
    weights = np.ones(len(values))
    for _ in range(60):
        found = non_negative(rows * weights[:, None], values * weights)
        weights = 1 / np.sqrt(np.maximum(np.abs(values - rows @ found), 1e-3))
    return [float(each) for each in found]


def _served(records: list[Record]) -> list[ServedRequest]:
    return [
        ServedRequest(
            num_prompt=each.input_toks,
            num_new=each.output_toks,
            started_s=each.scheduled_ts,
            first_s=each.first_token_ts,
            last_s=each.last_token_ts,
        )
        for each in records
    ]


def _serve(run: Run, coefficients: Coefficients, records: list[Record]) -> list[RequestResult]:
    machine = MachineModel(
        step_s=coefficients.step_s,
        sequence_s=coefficients.sequence_s,
        context_token_s=coefficients.context_token_s,
        prompt_token_s=coefficients.prompt_token_s,
        prompt_pair_s=coefficients.prompt_pair_s,
        noise=0.0,
        pool_tokens=run.pool_tokens,
        layout=msgspec.structs.replace(LAYOUT, block_size=16),
    )
    step_tokens = run.num_ranks * STEP_TOKENS
    settings = msgspec.structs.replace(
        SETTINGS,
        chunk_tokens=step_tokens,
        mixed_chunk_tokens=step_tokens,
        max_sequences=run.num_ranks * run.max_sequences,
    )
    pool = WorkerPool(Role.PREFILL, 1, machine, settings)
    cluster = SimulatedCluster([pool], RouterSettings(max_queued=None, split=Split.NEVER))
    return cluster.run(_arrivals(records))


def _arrivals(records: list[Record]) -> list[Arrival]:
    begin, arrivals, block = min(each.arrival_time for each in records), [], 1
    for each in records:
        end = block - (-each.input_toks // BLOCK_TOKENS)
        blocks, block = tuple(range(block, end)), end
        at_s = each.arrival_time - begin
        arrivals.append(Arrival(at_s, each.input_toks, each.output_toks, blocks))
    return arrivals


def _mean_ttft_s(records: list[Record]) -> float:
    """The two clocks differ by what the fastest request shows."""
    clock = min(each.queued_ts - each.arrival_time for each in records)
    return float(np.mean([each.first_token_ts - each.arrival_time - clock for each in records]))


def _mean_tpot_s(records: list[Record]) -> float:
    spans = [(each.last_token_ts - each.first_token_ts, each.output_toks - 1) for each in records]
    return float(np.mean([seconds / steps for seconds, steps in spans if steps]))


def _simulated_tpot_s(served: list[RequestResult]) -> float:
    return float(np.mean([each.tpot_s for each in served if each.arrival.num_new > 1]))

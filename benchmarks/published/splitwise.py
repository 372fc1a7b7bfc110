"""Splitwise (ISCA 2024): A100s that split the Azure conversation trace, beside A100s that do not.

Published: at equal power and cost the split A100 cluster serves 2.15 × as many requests/s as the
same number of A100 machines that each do both, within targets that are relative to an idle A100.

Assumed: Llama-2-70B on eight GPUs, coefficients fitted to the measured times of splitwise-sim's
perf_model.csv (prompts of 128 to 8,192 tokens alone, batches of 1 to 64 for decoding). Six machines
stand for the paper's 70, two or three of them prefill, whichever serves more. The lengths and
bursts of the Azure conversation trace, sped up, 300 requests. The targets are the paper's for half,
90 % and 99 % of the requests: 2, 3 and 6 × an idle machine's TTFT; 1.25, 1.5 and 5 × its TPOT and
its whole time. The baseline computes whole prompts, in steps without answers, before anything else.
Machines have eight network interfaces of 25 GB/s.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.published.result import Result, needed
from benchmarks.published.serving import fixed, machine, most_per_s, pool, serve
from router.placing.placement_request import Split
from sim.devices.device import MeasuredStep
from sim.devices.fit import fit_steps
from sim.machine import MachineModel
from sim.request import RequestResult
from sim.simulation import WorkerPool
from sim.traces import Arrival, at_rate, azure
from sim.unmixed_policy import unmixed
from wire.identity import Role

SOURCE = "Mutinifni/splitwise-sim's data/perf_model.csv, as measured/splitwise-sim"
TRACE_SOURCE = (
    "Azure/AzurePublicDataset, AzureLLMInferenceTrace_conv.csv, as traces/azure2023_conv.csv"
)
NUM_MACHINES, NUM_REQUESTS = 6, 300
SHARES = (50, 90, 99)
TTFT_TIMES, TPOT_TIMES = (2.0, 3.0, 6.0), (1.25, 1.5, 5.0)
PUBLISHED, BAR = 2.15, 0.15
CHUNK = 2048
RATIOS = (2, 3)
KV_HEADS, LAYERS = 8, 80


def results(measured: Path) -> list[Result]:
    """Raises DataMissing."""
    file = needed(measured / "splitwise-sim" / "perf_model.csv", SOURCE)
    trace = needed(measured.parent / "traces" / "azure2023_conv.csv", TRACE_SOURCE)
    model = a100(file)
    load = azure(trace, NUM_REQUESTS)
    whole = pool(Role.PREFILL, NUM_MACHINES, model, chunk_tokens=CHUNK, policy=unmixed)
    both = most([whole], Split.NEVER, load, model)
    split = max(most(_split(model, count), Split.ALWAYS, load, model) for count in RATIOS)
    return [
        Result(
            setting="Splitwise, A100, conversation",
            quantity="split ÷ both at equal cost",
            published=PUBLISHED,
            ours=split / both if both else float("inf"),
            bar=BAR,
        )
    ]


def a100(file: Path, tensor_parallel: str = "8") -> MachineModel:
    """Llama-2-70B on so many A100s."""
    with file.open(newline="") as lines:
        rows = [
            row
            for row in csv.DictReader(lines)
            if (row["model"], row["hardware"], row["tensor_parallel"])
            == ("llama2-70b", "a100-80gb", tensor_parallel)
        ]
    found = fit_steps([step for row in rows for step in _steps(row)])
    return machine(
        found.step_s,
        found.sequence_s,
        found.context_token_s,
        found.prompt_token_s,
        found.prompt_pair_s,
        num_layers=LAYERS,
        num_kv_heads=KV_HEADS,
        pool_tokens=1_000_000,
        bytes_per_s=int(tensor_parallel) * 25e9,
    )


def _steps(row: dict[str, str]) -> list[MeasuredStep]:
    prompt, batch = int(row["prompt_size"]), int(row["batch_size"])
    context = prompt + int(row["token_size"]) // 2
    decode = MeasuredStep(
        seconds=float(row["token_time"]) / 1e3,
        num_decoding=batch,
        context_tokens=batch * context,
    )
    prefill = MeasuredStep(
        seconds=float(row["prompt_time"]) / 1e3,
        prompt_tokens=prompt,
        prompt_pairs=prompt * prompt // 2,
    )
    return [decode, prefill] if batch == 1 else [decode]


def _split(model: MachineModel, num_prefill: int) -> list[WorkerPool]:
    return [
        pool(Role.PREFILL, num_prefill, model, chunk_tokens=CHUNK),
        pool(Role.DECODE, NUM_MACHINES - num_prefill, model, chunk_tokens=CHUNK),
    ]


def most(
    pools: Sequence[WorkerPool], split: Split, load: list[Arrival], model: MachineModel
) -> float:
    """Requests a second within the targets."""

    def in_time(per_s: float) -> bool:
        served = serve(pools, at_rate(load, per_s), fixed(split))
        return _keeps_targets(served, model)

    return most_per_s(in_time, 1.0, 24.0)


def _keeps_targets(served: Sequence[RequestResult], model: MachineModel) -> bool:
    slower = np.array([_times_slower(each, model) for each in served])
    limits = np.array([TTFT_TIMES, TPOT_TIMES, TPOT_TIMES]).T
    return bool((np.percentile(slower, SHARES, axis=0) <= limits).all())


def _times_slower(result: RequestResult, model: MachineModel) -> tuple[float, float, float]:
    """TTFT, TPOT and whole time, in those of an idle machine."""
    arrival = result.arrival
    assert result.ttft_s is not None
    assert result.tpot_s is not None
    first_s = model.prefill_s(arrival.num_prompt, CHUNK)
    context = arrival.num_prompt + arrival.num_new / 2
    token_s = model.step_s + model.sequence_s + model.context_token_s * context
    whole_s = first_s + (arrival.num_new - 1) * token_s
    took_s = result.ttft_s + (arrival.num_new - 1) * result.tpot_s
    tpot = result.tpot_s / token_s if arrival.num_new > 1 else 1.0
    return result.ttft_s / first_s, tpot, took_s / whole_s

"""TaiChi's three corners (arXiv 2508.01989): where splitting wins, where it loses, where neither.

Published, simulated with Vidur: Llama-2-70B on four A100s each, the arXiv summarization trace at 12
requests/s. Attainment of both on one instance, and split: 7 and 98 % at a TTFT of 16 s and a TPOT
of 60 ms; 97 and 42 % at 5 s and 250 ms; 16 and 50 % at 6 s and 100 ms.

Assumed: step times of the known device a100 by roofline (Vidur's profiles are not in the data); the
number of instances is not in what could be read, and is the smallest for which instances that do
both reach 97 % at 5 s and 250 ms, and of them as many prefill as come nearest to 98 % at 16 s and
60 ms, which makes two of the six numbers inputs. Instances that do both add chunks of 1,024 tokens
to steps whatever the target, as vLLM does. Lengths of the trace in order, Poisson arrivals, 900
requests.
"""

from __future__ import annotations

import csv
from itertools import islice
from pathlib import Path

import msgspec

from benchmarks.published.result import Result, needed
from benchmarks.published.serving import fixed, poisson, pool, serve
from router.placing.placement_request import Split
from sim.devices.device import read_device
from sim.devices.model_shape import ModelShape
from sim.devices.roofline import machine_of
from sim.machine import MachineModel
from sim.request import RequestResult
from sim.simulation import WorkerPool
from wire.identity import Role

SOURCE = "microsoft/vidur's data/processed_traces, as measured/vidur"
FILE = "arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv"
PER_S, NUM_REQUESTS = 12.0, 900
CHUNK, PREFILL_CHUNK = 1024, 4096
CORNERS = ((16.0, 0.060, 0.07, 0.98), (5.0, 0.250, 0.97, 0.42), (6.0, 0.100, 0.16, 0.50))
"""TTFT and TPOT in seconds; the published attainment of both on one instance, and split."""
FEW, MANY = 7, 14
BAR = 0.15
LLAMA_70B = ModelShape(
    num_layers=80,
    hidden_size=8192,
    intermediate_size=28672,
    num_heads=64,
    num_kv_heads=8,
    head_size=128,
    vocab_size=32000,
    max_model_len=4096,
)


def results(measured: Path) -> list[Result]:
    """Raises DataMissing."""
    lengths = read_lengths(needed(measured / "vidur" / FILE, SOURCE))
    model = msgspec.structs.replace(machine_of(read_device("a100"), LLAMA_70B, 4), noise=0.0)
    both, count = next(found for found in _colocated(model, lengths) if _attained(*found, 1) >= 0.97)
    split, num_prefill = _nearest_split(model, lengths, count)
    setting = f"TaiChi, {count} instances, {num_prefill} of them prefill"
    found = []
    for ttft_s, tpot_s, published_both, published_split in CORNERS:
        at = f"at {ttft_s:g} s, {1e3 * tpot_s:g} ms"
        for name, published, served in (
            ("both", published_both, both),
            ("split", published_split, split),
        ):
            found.append(
                Result(
                    setting=setting,
                    quantity=f"attainment of {name} {at}",
                    published=published,
                    ours=share(served, ttft_s, tpot_s),
                    bar=BAR,
                )
            )
    return found

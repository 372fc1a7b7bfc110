"""A DGX Spark that reads and a Mac Studio that writes (exo labs).

Published at blog.exolabs.net/nvidia-dgx-spark: Llama-3.1-8B in FP16, one request of 8,192 prompt
tokens and 32 of answer. Prefill and decode take the Spark 1.47 and 2.87 s, the Mac (M3 Ultra) 5.57
and 0.85 s; both together 2.32 s, 2.8 × the Mac and 1.9 × the Spark. 100 TFLOP/s and 273 GB/s
against 26 and 819; 10 Gbit/s between them.

Assumed: coefficients from each box's own two times (a step's fixed part from decoding, the rest of
the prefill for tokens), so that the pair is what is predicted; in a second pair of rows they come
from the four published figures of hardware, by roofline with the usual efficiencies. Chunks of
2,048 tokens; 10 Gbit/s at 85 %.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from benchmarks.model_shapes import LLAMA_8B
from benchmarks.published.result import Result
from benchmarks.published.serving import fixed, machine, pool, serve
from router.placing.placement_request import Split
from sim.devices.device import Device
from sim.devices.roofline import machine_of
from sim.machine import MachineModel
from sim.simulation import WorkerPool
from sim.traces import Arrival
from wire.identity import Role

PROMPT, ANSWER, CHUNK = 8192, 32, 2048
SPARK_S, MAC_S = (1.47, 2.87), (5.57, 0.85)
PAIR_S = 2.32
BYTES_PER_S = 0.85 * 1.25e9
BAR = 0.15
LLAMA_8B_FLOAT16 = msgspec.structs.replace(LLAMA_8B, dtype="float16")


def results(measured: Path) -> list[Result]:
    fitted = _results("exo, fitted to each box", _fitted(*SPARK_S), _fitted(*MAC_S))
    spark, mac = _device("spark", 128, 273, 100), _device("mac", 512, 819, 26)
    return fitted + _results("exo, by roofline", spark, mac, bar=None)


def _results(
    setting: str, spark: MachineModel, mac: MachineModel, bar: float | None = BAR
) -> list[Result]:
    spark_s, mac_s = (_alone_s([_pool(Role.DECODE, each)], Split.NEVER) for each in (spark, mac))
    pair_s = _alone_s([_pool(Role.PREFILL, spark), _pool(Role.DECODE, mac)], Split.ALWAYS)
    auto_s = _alone_s([_pool(Role.PREFILL, spark), _pool(Role.DECODE, mac)], Split.AUTO)
    numbers = (
        ("pair, times the Mac", sum(MAC_S) / PAIR_S, mac_s / pair_s, bar),
        ("pair, times the Spark", sum(SPARK_S) / PAIR_S, spark_s / pair_s, bar),
        ("pair, s", PAIR_S, pair_s, bar),
        ("pair as `auto` places it, s", PAIR_S, auto_s, bar),
    )
    return [
        Result(setting=setting, quantity=quantity, published=published, ours=ours, bar=each)
        for quantity, published, ours, each in numbers
    ]


def _fitted(prefill_s: float, decode_s: float) -> MachineModel:
    step_s = decode_s / ANSWER
    token_s = (prefill_s - PROMPT / CHUNK * step_s) / PROMPT
    return machine(step_s, 0.0, 0.0, token_s, bytes_per_s=BYTES_PER_S)


def _device(name: str, memory_gb: float, gb_per_s: float, tflops: float) -> MachineModel:
    device = Device(
        name=name,
        memory_gb=memory_gb,
        memory_gb_per_s=gb_per_s,
        tflops={"float16": tflops},
        network_gb_per_s=1.25,
    )
    return machine_of(device, LLAMA_8B_FLOAT16)


def _pool(role: Role, model: MachineModel) -> WorkerPool:
    return pool(role, 1, model, chunk_tokens=CHUNK)


def _alone_s(pools: list[WorkerPool], split: Split) -> float:
    """From a request's arrival to its last token, on an idle cluster that has learned."""
    requests = [_request(number) for number in range(24)]
    last = serve(pools, requests, fixed(split), lead_in_s=15.0)[-1]
    assert last.last_s is not None
    return last.last_s - last.arrival.at_s


def _request(number: int) -> Arrival:
    """Lengths vary before the last, so that there is something to learn from."""
    length = PROMPT - 256 * (23 - number)
    first = 1 + 64 * number
    return Arrival(15.0 * number, length, ANSWER, tuple(range(first, first + 16)))

"""Measured throughput of Llama-3.1-8B on H100 and H200, beside a roofline of the data sheets.

The rows are those of aisimulate's silicon sample (NVIDIA), of TensorRT-LLM, SGLang and vLLM, each a
full batch: tokens per second and device are batch × answer ÷ (TTFT + answer × TPOT). Ours are what
steps of the known devices h100 and h200 give, with the usual efficiencies, which decode the batch
in the middle of its answers and compute one prompt for each answer. There is no bar: this says how
far a data sheet goes.

Assumed: rows without a precision are of 16 bits; in the others weights, KV cache and arithmetic are
of 8. Prompts and answers share steps, and none waits.
"""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.model_shapes import LLAMA_8B
from benchmarks.published.result import Result, needed
from sim.devices.device import read_device
from sim.devices.errors import DoesNotFit
from sim.devices.roofline import machine_of

SOURCE = "the wheel aisimulate 0.13.0.dev202610270000000085, as measured/aisimulate"
DTYPES = {"fp8": "float8_e4m3fn", "": "bfloat16"}


def results(measured: Path) -> list[Result]:
    """Raises DataMissing."""
    file = needed(measured / "aisimulate" / "silicon_sample.csv", SOURCE)
    with file.open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if _is_wanted(row)]
    groups: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        ours = _tokens_per_s(row)
        if ours is not None:
            bits = "8" if row["precision"] else "16"
            name = f"Llama-3.1-8B, {row['system'][:4]}, {row['backend']}, {bits} bits"
            groups.setdefault(name, []).append((_measured(row), ours))
    return [each for name, pairs in sorted(groups.items()) for each in _results(name, pairs)]


def _results(name: str, pairs: list[tuple[float, float]]) -> list[Result]:
    measured, ours = np.array(pairs).T
    off = np.median(np.abs(ours / measured - 1))
    return [
        Result(
            setting=f"{name}, {len(pairs)} rows (median error {off:.0%})",
            quantity="tokens/s per device, median",
            published=float(np.median(measured)),
            ours=float(np.median(ours)),
        )
    ]


def _is_wanted(row: dict[str, str]) -> bool:
    return (
        "llama-3.1-8b" in row["model_path"].lower()
        and row["mode"] == "agg"
        and row["system"][:4] in ("h100", "h200")
        and row["precision"] in DTYPES
    )


def _measured(row: dict[str, str]) -> float:
    """Tokens a second and device."""
    batch, answer, devices = (int(row[name]) for name in ("batch_size", "osl", "tp_size"))
    request_ms = float(row["silicon_ttft_ms"]) + (answer - 1) * float(row["silicon_tpot_ms"])
    return 1e3 * batch * answer / (request_ms * devices)


def _tokens_per_s(row: dict[str, str]) -> float | None:
    """The roofline's; None where the model does not fit so."""
    shape = msgspec.structs.replace(LLAMA_8B, dtype=DTYPES[row["precision"]])
    devices = int(row["tp_size"])
    try:
        machine = machine_of(read_device(row["system"][:4]), shape, devices)
    except DoesNotFit:
        return None
    batch, prompt, answer = (int(row[name]) for name in ("batch_size", "isl", "osl"))
    context = prompt + answer / 2
    decode_s = machine.step_s + batch * (machine.sequence_s + machine.context_token_s * context)
    prompt_s = prompt * (machine.prompt_token_s + machine.prompt_pair_s * prompt / 2)
    return batch * answer / ((answer * decode_s + batch * prompt_s) * devices)

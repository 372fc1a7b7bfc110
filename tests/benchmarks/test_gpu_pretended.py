"""Lines of benchmarks.gpu that only a GPU reaches, with a CPU that pretends to be one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu import models, rates
from benchmarks.gpu.context import Context
from benchmarks.gpu.finding import Finding, Kind
from benchmarks.gpu.parts import attention, graphs, host, nixl, speed, versions

CPU = torch.device("cpu")


class PretendedGpu(Context):
    """Its device is the CPU, and what follows from having a GPU is done all the same."""

    @property
    def on_gpu(self) -> bool:
        return True


class HostEvent:
    def __init__(self, **settings: object) -> None:
        assert settings == {"enable_timing": True}

    def record(self) -> None:
        self._at_s = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: HostEvent) -> float:
        return (end._at_s - self._at_s) * 1e3


PROPERTIES = SimpleNamespace(
    name="NVIDIA H200", total_memory=150e9, major=9, minor=0, multi_processor_count=132
)


@pytest.fixture(autouse=True)
def _pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Any] = {
        "get_device_properties": PROPERTIES,
        "get_device_name": "NVIDIA H200",
        "mem_get_info": (speed.SPARE_BYTES + (1 << 30), 150 << 30),
        "memory_reserved": 5 << 20,
        "synchronize": None,
        "empty_cache": None,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "Event", HostEvent)
    monkeypatch.setattr(graphs, "GraphCapture", lambda device: graphs.run_eagerly)


def findings(run: Any, part: str) -> dict[str, Finding]:
    """By name, the last of each."""
    found: Iterator[Finding] = run(PretendedGpu(part, "cpu"))
    return {it.name: it for it in found}


def test_versions_tell_of_the_device() -> None:
    found = findings(versions.run, "versions")
    assert found["device"].text == "NVIDIA H200, 150 GB"
    assert found["compute capability"].text == "9.0, 132 SMs"
    assert found["free memory"].text.endswith("of 161.1 GB")
    assert not [it for it in found.values() if it.kind is Kind.FAILED]


def test_an_8b_shape_has_bars_and_the_vendor_s_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.SHAPES, "8b", models.TINY)
    load = speed.Load(speed.TORCH, (1, 32), (64,))
    monkeypatch.setattr(speed, "GPU", speed.Size((load,), context=4, steps=2, rounds=1))
    monkeypatch.setattr(speed, "BARRED_PROMPT", 64)
    found = findings(speed.run, "speed-8b")
    bars = [it.name for it in found.values() if it.kind in (Kind.MET, Kind.MISSED)]
    decodes = ["8B bfloat16, decode, batch 1", "8B bfloat16, decode, batch 32"]
    assert bars == [*decodes, "8B bfloat16, prompt of 64, MFU"]
    figures = found["Triton, graphs, prompt of 64"].figures
    assert 0 < figures["mfu"] < figures["share"], "the vendor's rate is more than a CPU's"


def test_batches_that_do_not_fit_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of a megabyte holds the blocks of one sequence, and no prompt of 2,000 tokens."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (speed.SPARE_BYTES + (1 << 18), 0))
    load = speed.Load(speed.TORCH, (1, 32), (2000,))
    monkeypatch.setattr(speed, "GPU", speed.Size((load,), context=4, steps=2, rounds=1))
    monkeypatch.setitem(models.SHAPES, "1b", models.TINY)
    found = findings(speed.run, "speed-1b")
    assert found["Triton, graphs, batch 32"].text == "needs more memory"
    assert found["Triton, graphs, prompt of 2000"].kind is Kind.SKIPPED
    assert found["Triton, graphs, decode, batch 1"].kind is Kind.FIGURE


def test_graphs_tell_what_capturing_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "GPU", graphs.Size(models.TINY, (2,), 5, 2, 64))
    found = findings(graphs.run, "graphs")
    assert "MB with the cache" in found["capture"].text
    assert found["NCCL in a graph"].kind is Kind.GREEN


def test_a_gpu_that_holds_no_sequence_is_no_endless_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (speed.SPARE_BYTES // 2, 0))
    monkeypatch.setitem(models.SHAPES, "1b", models.TINY)
    found = findings(speed.run, "speed-1b")
    assert {it.kind for it in found.values()} == {Kind.FIGURE, Kind.SKIPPED}
    assert [it.name for it in found.values() if it.kind is Kind.FIGURE] == ["the device"]


@pytest.mark.long
def test_a_slow_link_misses_its_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nixl, "GPU", nixl.CPU)
    # UCX's settings are the process's: those that the part makes end with this test.
    for name, value in (("NET_DEVICES", "lo"), ("PROTO_INFO", "y"), ("LOG_FILE", "/dev/null")):
        monkeypatch.setenv(f"UCX_{name}", value)
    monkeypatch.setattr(nixl, "copy_rate", lambda device, num_bytes: 1e15)
    found = findings(nixl.run, "nixl")
    assert found["VRAM to VRAM, of a copy"].kind is Kind.MISSED
    assert found["in order"].figures["gb_s"] > 0


def test_the_host_s_time_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "GPU", host.CPU)
    assert "host us a step, 4 rows of 32 tokens" in findings(host.run, "host")


def test_flashinfer_is_asked_for_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(name: str, *_: object) -> None:
        asked.append(name)
        raise RuntimeError("Could not find nvcc")

    monkeypatch.setattr(attention, "make_attention", refuse)
    monkeypatch.setattr(attention, "why_no_flashinfer_on", lambda device, shape: None)
    monkeypatch.setattr(attention, "GPU", attention.CPU)
    found = findings(attention.run, "attention")
    assert asked == ["torch", "flashinfer"]
    assert found["flashinfer, head size 16"].text == "RuntimeError: Could not find nvcc"


def test_times_on_the_device_are_those_of_its_events() -> None:
    assert 0 < rates._cuda_s(lambda: time.perf_counter()) < 1

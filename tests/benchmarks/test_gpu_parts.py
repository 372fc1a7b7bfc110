"""Parts of benchmarks.gpu in their reduced form: real kernels' code, libraries, and processes."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.finding import Kind
from benchmarks.gpu.isolated import run_isolated
from benchmarks.gpu.part import Outcome, find_parts

LIMIT_S = 280


@functools.cache
def outcome(name: str) -> Outcome:
    (part,) = find_parts([name])
    return run_isolated(part, "cpu", "auto", LIMIT_S, lambda finding: print(finding))


def named(name: str, kind: Kind) -> list[str]:
    return [it.name for it in outcome(name).findings if it.kind is kind]


def text(name: str, finding: str) -> str:
    return next(it.text for it in outcome(name).findings if it.name == finding)


def test_versions_are_told_and_what_is_chosen() -> None:
    assert text("versions", "torch").startswith("2.")
    assert text("versions", "NIXL").startswith("nixl_cu")
    assert text("versions", "attention: auto") == "torch"
    assert text("versions", "FlashInfer") == "this needs a CUDA device"
    assert "MATH" in text("versions", "PyTorch's order")
    assert outcome("versions").right


def test_the_kernels_are_interpreted_and_compared() -> None:
    green = named("kernels", Kind.GREEN)
    assert {"norm, float32", "gate, float32", "tiny key, float32"} <= set(green)
    assert {"tiny attention, window 20, float32", "draws, top-k and top-p"} <= set(green)
    assert {"checksum", "checksum, faults"} <= set(green)
    assert outcome("kernels").right


def test_attention_is_the_formula_in_every_kind_of_step() -> None:
    kinds = ("mixed step", "decode step", "to be captured")
    assert named("attention", Kind.GREEN) == [f"torch, head size 16, {kind}" for kind in kinds]
    assert named("attention", Kind.SKIPPED) == ["flashinfer, head size 16"]
    assert text("attention", "flashinfer, head size 16") == "this needs a CUDA device"


def test_captured_steps_are_computed_and_what_needs_a_gpu_says_so() -> None:
    assert named("graphs", Kind.GREEN) == ["rows: 1", "rows: 3", "rows: 8", "gloo"]
    assert named("graphs", Kind.SKIPPED) == ["capture"]
    assert "needs a GPU" in text("graphs", "capture")
    assert outcome("graphs").right


def test_answers_are_judged_by_transformers() -> None:
    assert named("parity", Kind.GREEN) == ["qwen2, eager, float32", "qwen2, eager, bfloat16"]
    assert named("parity", Kind.SKIPPED) == []
    assert outcome("parity").right


def test_nixl_writes_between_two_processes_and_every_block_is_looked_at() -> None:
    cases = ("one block", "scattered", "in order")
    expected = [name for case in cases for name in (case, f"{case}, checksum")]
    assert named("nixl", Kind.GREEN) == expected
    assert text("nixl", "in order").startswith("64 of 64")
    assert text("nixl", "copy within the device").endswith("GB/s")
    assert outcome("nixl").right


def test_two_workers_answer_as_one() -> None:
    assert named("handoff", Kind.GREEN) == ["float32, handed over", "float32, equal to one"]
    assert text("handoff", "float32, handed over").startswith("12 of 12 requests, ")
    assert outcome("handoff").right


def test_steps_and_prompts_are_rated_by_what_was_measured() -> None:
    figures = {it.name: it.figures for it in outcome("speed-8b").findings}
    assert figures["the device"]["bytes_s"] > 0
    assert 0 < figures["Triton, graphs, decode, batch 4"]["share"] < 2
    assert 0 < figures["Triton, graphs, prompt of 32"]["mfu"] < 2
    assert named("speed-8b", Kind.MISSED) == [], "bars are for GPUs"
    assert outcome("speed-8b").right


def test_tokens_are_drawn_as_a_cpu_draws_them_and_the_host_s_time_is_told() -> None:
    kinds = ("greedy", "temperature", "top-k", "top-p", "top-k and top-p", "penalties")
    assert named("host", Kind.GREEN) == [f"sampling, {kind}" for kind in kinds]
    figures = {it.name: it.figures for it in outcome("host").findings}
    assert figures["host, 4 rows of 32 tokens"]["launch_us"] > 0
    assert "engine/runners/" in "".join(it.text for it in outcome("host").findings)


@pytest.mark.long
def test_goodput_is_told_of_one_worker_and_of_two() -> None:
    figures = {it.name: it.figures for it in outcome("goodput").findings}
    assert figures["one worker"]["rate"] > 0
    assert figures["prefill and decode"]["rate"] > 0
    assert outcome("goodput").right


@pytest.mark.parametrize(
    ("package", "part", "says"),
    [
        ("triton", "kernels", "needs triton"),
        pytest.param("transformers", "parity", "needs transformers", marks=pytest.mark.long),
        ("nixl_cu12, nixl_cu13", "nixl", "NIXL is not installed: pip install nixl-cu13"),
        ("nixl_cu12, nixl_cu13", "handoff", "NIXL is not installed"),
    ],
)
def test_a_part_whose_package_is_missing_says_so(
    package: str, part: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = "".join(f"sys.modules['{name}'] = None\n" for name in package.split(", "))
    (tmp_path / "sitecustomize.py").write_text(f"import sys\n{hidden}")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(filter(None, sys.path))}")
    (chosen,) = find_parts([part])
    found = run_isolated(chosen, "cpu", "auto", LIMIT_S, lambda finding: None)
    assert any(it.kind is Kind.SKIPPED and says in it.text for it in found.findings)
    assert not any(it.kind in (Kind.RED, Kind.FAILED) for it in found.findings)

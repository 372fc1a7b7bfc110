"""Each Triton kernel of a step compiles for each GPU that is supported, and never spills."""

from __future__ import annotations

from itertools import product

import pytest

pytest.importorskip("triton")

from engine.cuda.splits import SHORT
from tests.cuda.aot import ARCHITECTURES, Launch, compile_launch
from tests.cuda.shapes import PRECISIONS, SHAPES, launches

SHARED_BYTES = 52 << 10
"""Three programs fit an A100's multiprocessor, four an H100's."""
REGISTERS = {"decode": 208, "split decode": 168}
"""A thread's, at most: of those 168, three programs fit a multiprocessor."""
OTHER_REGISTERS = 96

QUICK = [
    *(("llama-3.1-8b", "bf16", arch) for arch in ARCHITECTURES),
    *(("llama-3.1-8b", "fp8", arch) for arch in (89, 90)),
    *((name, "fp32", 90) for name in ("llama-3.1-8b", "heads of 256")),
    ("qwen2.5-0.5b", "fp16", 80),
]
"""Each precision, architecture and size of heads that is compiled in a way of its own."""
UNLIKE = [
    *("llama-3.2-1b", "llama-3.1-70b of 8 ranks", "qwen2.5-7b", "qwen3-0.6b"),
    *("heads of 80", "heads of 96", "heads of 256", "tests' own"),
]
"""Shapes whose heads differ in size or in how many share a key."""
ALL = [
    *product(SHAPES, ["bf16"], [90]),
    *product(UNLIKE, ["fp32", "fp8"], [90]),
    *product(["llama-3.1-8b"], ["fp16", "fp8 of fp16"], [90]),
    *product(["llama-3.2-1b", "llama-3.1-8b"], ["bf16", "fp32", "fp8"], [80, 89, 100]),
]


def combinations() -> list[object]:
    rest = [it for it in ALL if it not in QUICK and not ("fp8" in it[1] and it[2] < 89)]
    return [*QUICK, *(pytest.param(*it, marks=pytest.mark.long) for it in rest)]


def name_of(launch: Launch) -> str:
    return f"split {launch.name}" if launch.options.get("SPLIT") else launch.name


@pytest.mark.parametrize(("model", "precision", "arch"), combinations())
def test_kernels_of_a_step_compile_without_spills(
    model: str, precision: str, arch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = set()
    for launch in launches(SHAPES[model], PRECISIONS[precision], monkeypatch):
        kernel, name = compile_launch(launch, arch), name_of(launch)
        names.add(name)
        assert kernel.spill_bytes == 0, name
        assert kernel.registers <= REGISTERS.get(name, OTHER_REGISTERS), name
        assert kernel.shared_bytes <= SHARED_BYTES, name
    window = SHAPES[model].window
    splits = set() if window and window <= SHORT else {"plan_splits", "split decode", "combine"}
    assert names == {"add_norm", "gate", "rotate_and_store", "decode", *splits}


@pytest.mark.parametrize("arch", [89, 90])
def test_numbers_beyond_the_largest_of_8_bits_are_stored_as_the_largest(
    arch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = launches(SHAPES["llama-3.1-8b"], PRECISIONS["fp8"], monkeypatch)
    [store] = [launch for launch in made if launch.name == "rotate_and_store"]
    casts = [line for line in compile_launch(store, arch).ptx.splitlines() if "e4m3x2" in line]
    assert casts
    assert all("satfinite" in line for line in casts)


def test_8_bits_take_compute_capability_8_9(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason for engine.device.triton_available's condition."""
    made = launches(SHAPES["llama-3.1-8b"], PRECISIONS["fp8"], monkeypatch)
    [store] = [launch for launch in made if launch.name == "rotate_and_store"]
    with pytest.raises(Exception, match="fp8e4nv not supported"):
        compile_launch(store, 80)


def test_keys_are_copied_by_16_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """So they are where Triton knows that addresses and strides are multiples of 16."""
    made = launches(SHAPES["llama-3.1-8b"], PRECISIONS["bf16"], monkeypatch)
    for launch in made:
        if launch.name == "decode":
            copies = compile_launch(launch, 90).ptx.count("cp.async.cg.shared.global [")
            assert copies >= 8, name_of(launch)

"""GPUs for workers that are plain processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.config import load_config
from cluster.errors import StartFailed
from cluster.gpu_allocator import GpuAllocator
from cluster.idle_gpus import TINY_BYTES, idle_gpu_warnings
from cluster.process_launcher import ProcessLauncher
from engine.device.visible_gpus import visible_gpus

pytestmark = pytest.mark.quick


def test_workers_get_gpus_of_their_own_and_a_dead_one_gives_them_back() -> None:
    shares = GpuAllocator(["0", "1", "2"])
    assert shares.allocate("prefill-0", 2, "prefill.num_gpus") == ["0", "1"]
    assert shares.allocate("decode-0", 1, "decode.num_gpus") == ["2"]
    with pytest.raises(StartFailed, match=r"decode-1: decode\.num_gpus is 1.*3 GPUs.* 0 are free"):
        shares.allocate("decode-1", 1, "decode.num_gpus")
    shares.release("prefill-0")
    assert shares.allocate("decode-1", 1, "decode.num_gpus") == ["0"]


def test_parts_of_one_are_shared_before_another_is_begun() -> None:
    shares = GpuAllocator(["GPU-a", "GPU-b"])
    parts = [shares.allocate(f"decode-{n}", 1 / 3, "decode.num_gpus") for n in range(4)]
    assert parts == [["GPU-a"], ["GPU-a"], ["GPU-a"], ["GPU-b"]]


def test_where_there_are_none_it_is_refused_instead_of_computed_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    config = load_config(None, {"prefill.num_gpus": 1})
    launcher = ProcessLauncher()
    pool = config.pool("prefill")
    with pytest.raises(StartFailed, match=r"prefill-0: prefill\.num_gpus is 1, and of the 0 GPUs"):
        launcher.start_worker(pool, "prefill-0", pool.worker)
    launcher.close()


@pytest.mark.parametrize(
    ("settings", "visible"),
    [
        ({"decode.num_gpus": 1}, ["0", "1"]),
        ({"decode.num_gpus": 0.5}, ["0", "0"]),
        ({}, ["", ""]),
        ({"worker.device": "cpu"}, [None, None]),
        ({"worker.device": "cuda:1"}, [None, None]),
    ],
)
def test_each_worker_sees_the_gpus_that_it_was_given(
    settings: dict[str, Any], visible: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    environments: list[Mapping[str, str]] = []

    def child(name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> object:
        environments.append(environment)
        return SimpleNamespace(name=name)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr("cluster.process_launcher.Child", child)
    pool = load_config(None, settings).pool("decode")
    launcher = ProcessLauncher()
    for name in ("decode-0", "decode-1"):
        launcher.start_worker(pool, name, pool.worker)
    assert [it.get("CUDA_VISIBLE_DEVICES") for it in environments] == visible


def test_a_model_that_is_not_tiny_is_not_left_to_the_cpu_in_silence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with (tmp_path / "model.safetensors").open("wb") as weights:
        weights.truncate(TINY_BYTES + 1)

    def warnings(num_gpus: int, **settings: Any) -> list[str]:
        config = load_config(None, {"model": str(tmp_path), **settings})
        return idle_gpu_warnings(config, num_gpus, "Ray's nodes have")

    (warning,) = warnings(8, **{"prefill.num_gpus": 1})
    assert warning.startswith("decode will compute on the CPU, since decode.num_gpus is 0; Ray's")
    assert "Ray's nodes have 8 GPUs" in warning
    assert warnings(0) == []
    assert warnings(8, **{"worker.device": "cpu"}) == []
    assert warnings(8, **{"worker.device": "cuda"}) == []
    assert idle_gpu_warnings(load_config(None, {}), 8, "this machine has") == []


def test_gpus_are_known_by_their_device_files_unless_the_environment_says_which(
    tmp_path: Path,
) -> None:
    assert visible_gpus({}, tmp_path) == []
    for name in ("nvidia0", "nvidia3", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path) == ["0", "1"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3, GPU-5a"}, tmp_path) == ["3", "GPU-5a"]
    for none in ("", "-1", "NoDevFiles"):
        assert visible_gpus({"CUDA_VISIBLE_DEVICES": none}, tmp_path) == []

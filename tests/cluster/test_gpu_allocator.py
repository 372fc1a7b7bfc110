"""GPUs for workers that are plain processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config import load_config
from cluster.errors import StartFailed
from cluster.gpu_allocator import GpuAllocator
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

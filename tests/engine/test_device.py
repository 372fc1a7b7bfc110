"""Which device "auto" is, when it is none, and what an error says of PyTorch's reason."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from engine.device.cuda_problem import cuda_problem
from engine.device.device import choose_device
from engine.device.gpu_sign import gpu_sign
from engine.errors import ConfigError

pytestmark = pytest.mark.quick

TOO_OLD = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 12040). "
    "Please update your GPU driver. (Triggered internally at /c10/cuda/CUDAFunctions.cpp:109.)"
)
NOT_FOUND = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU."


def test_auto_is_the_cpu_where_there_is_no_gpu() -> None:
    assert choose_device("auto", lambda: None, lambda: "no driver") == torch.device("cpu")


def test_a_gpu_that_pytorch_cannot_use_is_an_error_with_its_reason_and_a_remedy() -> None:
    message = r"an NVIDIA GPU \(/dev/nvidia0\).*cannot use it: driver too old\. .*device to \"cpu"
    with pytest.raises(ConfigError, match=message):
        choose_device("auto", lambda: "/dev/nvidia0", lambda: "driver too old")


def test_the_cpu_by_name_asks_for_no_reasons() -> None:
    def problem() -> str:
        raise AssertionError("PyTorch was asked for its GPUs")

    assert choose_device("cpu", lambda: "/dev/nvidia0", problem) == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_a_gpu_by_name_that_is_not_there_is_an_error_with_pytorchs_reason(name: str) -> None:
    with pytest.raises(ConfigError, match=f'"{name}": PyTorch has no CUDA device: too old'):
        choose_device(name, lambda: None, lambda: "too old")


@pytest.mark.parametrize("name", ["gpu", "cuda:one"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match='expected "auto", "cpu" or "cuda:N"'):
        choose_device(name, lambda: None, lambda: None)


def test_without_anything_of_nvidia_there_is_no_sign(tmp_path: Path) -> None:
    pci_device(tmp_path, "0000:00:02.0", vendor="0x8086", kind="0x030000")
    assert gpu_sign({}, tmp_path) is None


def test_the_environment_names_gpus_and_hides_them(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    assert gpu_sign({"CUDA_VISIBLE_DEVICES": "1"}, tmp_path) == "CUDA_VISIBLE_DEVICES=1"
    for hidden in ("", "-1"):
        assert gpu_sign({"CUDA_VISIBLE_DEVICES": hidden}, tmp_path) is None


def test_files_of_devices_are_a_sign_but_not_those_of_the_driver_alone(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    assert gpu_sign({}, tmp_path) is None
    (tmp_path / "dev/nvidia3").touch()
    assert gpu_sign({}, tmp_path) == "/dev/nvidia3"


def test_a_container_that_was_given_a_gpu_shows_it_though_the_file_is_missing(
    tmp_path: Path,
) -> None:
    given = {"NVIDIA_VISIBLE_DEVICES": "GPU-5a"}
    assert gpu_sign(given, tmp_path) == "NVIDIA_VISIBLE_DEVICES=GPU-5a"
    for nothing in ("all", "void", "none", ""):
        assert gpu_sign({"NVIDIA_VISIBLE_DEVICES": nothing}, tmp_path) is None


def test_a_machine_without_a_driver_shows_the_gpu_on_its_bus(tmp_path: Path) -> None:
    pci_device(tmp_path, "0000:01:00.1", vendor="0x10de", kind="0x040300")  # its audio
    assert gpu_sign({}, tmp_path) is None
    pci_device(tmp_path, "0000:01:00.0", vendor="0x10de", kind="0x030200")
    assert gpu_sign({}, tmp_path) == "PCI device 0000:01:00.0 of NVIDIA"
    (tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0").mkdir(parents=True)
    assert gpu_sign({}, tmp_path) == "/proc/driver/nvidia/gpus"


def test_a_container_without_a_gpu_may_stand_on_a_machine_that_has_one(tmp_path: Path) -> None:
    pci_device(tmp_path, "0000:01:00.0", vendor="0x10de", kind="0x030200")
    assert gpu_sign({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path) is None
    (tmp_path / ".dockerenv").touch()
    assert gpu_sign({}, tmp_path) is None


def test_a_build_without_cuda_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytorch(monkeypatch, cuda=None)
    assert cuda_problem() == (
        f"PyTorch {torch.__version__} was built without CUDA; install its build for CUDA"
    )


def test_the_drivers_trouble_is_told_in_pytorchs_words(monkeypatch: pytest.MonkeyPatch) -> None:
    pytorch(monkeypatch, cuda="13.0", warning=TOO_OLD)
    assert cuda_problem() == TOO_OLD.partition(" (Triggered")[0]


def test_a_driver_that_is_not_found_is_told_with_where_it_may_lie(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PyTorch warns once in a process; later its error says the same."""
    pytorch(monkeypatch, cuda="13.0", error=NOT_FOUND)
    problem = cuda_problem()
    assert problem is not None
    assert problem.startswith(NOT_FOUND)
    assert "LD_LIBRARY_PATH" in problem


def test_there_is_no_problem_where_pytorch_has_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert cuda_problem() is None


def pytorch(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, warning: str = "", error: str = "none"
) -> None:
    """Let PyTorch be a build for that CUDA, which finds no device."""

    def is_available() -> bool:
        if warning:
            warnings.warn(warning, UserWarning, stacklevel=1)
        return False

    def init() -> None:
        raise RuntimeError(error)

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    monkeypatch.setattr(torch.cuda, "init", init)


def pci_device(root: Path, address: str, vendor: str, kind: str) -> None:
    folder = root / "sys/bus/pci/devices" / address
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "class").write_text(f"{kind}\n")

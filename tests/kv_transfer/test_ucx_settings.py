"""Settings of UCX that are added to its user's."""

from __future__ import annotations

from pathlib import Path

import pytest

from kv_transfer.transports.nixl.ucx_settings import (
    has_direct_access,
    has_nvidia_gpu,
    missing_settings,
)

pytestmark = pytest.mark.quick


def added(device: str = "cpu", *, has_gpu: bool = False, **chosen: str) -> dict[str, str]:
    return missing_settings(chosen, device=device, has_gpu=has_gpu)


def test_what_the_user_has_chosen_stays() -> None:
    chosen = {"UCX_LOG_FILE": "/log", "UCX_USE_MT_MUTEX": "n", "UCX_MEMTYPE_CACHE": "y"}
    assert added("cuda:0", **chosen) == {}


def test_the_driver_is_asked_about_addresses_where_the_pool_is_on_a_gpu() -> None:
    assert added("cuda:1")["UCX_MEMTYPE_CACHE"] == "n"
    assert "UCX_MEMTYPE_CACHE" not in added("cpu")


@pytest.mark.parametrize("tls", ["tcp", "self,tcp", "tcp,cuda_ipc", "rc,gdr_copy", "\\tcp"])
def test_cuda_copy_is_added_beside_a_gpu(tls: str) -> None:
    assert added(has_gpu=True, UCX_TLS=tls)["UCX_TLS"] == f"{tls},cuda_copy"
    assert "UCX_TLS" not in added(has_gpu=False, UCX_TLS=tls)


@pytest.mark.parametrize(
    "tls", ["all", "^ib", "^cuda", "tcp,cuda", "cuda_copy,cuda_ipc,sm,tcp", "tcp,\\cuda_copy", ""]
)
def test_a_choice_that_includes_cuda_or_only_excludes_is_left_alone(tls: str) -> None:
    assert "UCX_TLS" not in added(has_gpu=True, UCX_TLS=tls)


def test_ucx_s_own_choice_is_left_to_it() -> None:
    assert "UCX_TLS" not in added(has_gpu=True)


def test_copies_within_a_process_are_no_access_to_another_s_memory() -> None:
    assert not has_direct_access("tcp,cuda_copy")
    assert not has_direct_access("rc,cuda_copy,gdr_copy")
    assert has_direct_access("tcp,cuda_ipc")
    assert has_direct_access("tcp,cuda")
    assert has_direct_access("^ib")
    assert has_direct_access("all")


@pytest.mark.parametrize(
    ("vendor", "kind", "found"),
    [
        ("0x10de", "0x030200", True),  # a GPU for computing
        ("0x10de", "0x030000", True),  # one with a display
        ("0x10de", "0x068000", False),  # an NVSwitch
        ("0x1002", "0x030000", False),  # AMD's
    ],
)
def test_a_gpu_is_a_display_controller_of_nvidia_s(
    vendor: str, kind: str, found: bool, tmp_path: Path
) -> None:
    device = tmp_path / "0000:00:0a.0"
    device.mkdir()
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    (tmp_path / "0000:00:0b.0").mkdir()
    assert has_nvidia_gpu(tmp_path) is found


def test_a_machine_without_a_pci_bus_has_no_gpu(tmp_path: Path) -> None:
    assert not has_nvidia_gpu(tmp_path / "none")

from pathlib import Path

import pytest

from kv_transfer.transports.link_kind import LinkKind, estimate_link
from wire.identity import ProcessRef

pytestmark = pytest.mark.quick

US = ProcessRef("here", 1)
NEIGHBOUR = ProcessRef("here", 2)
STRANGER = ProcessRef("there", 1)


def test_workers_of_one_process_need_no_network() -> None:
    assert estimate_link(US, US, direct_access=False).kind is LinkKind.PROCESS


def test_neighbours_share_memory_unless_the_transport_is_kept_from_it() -> None:
    assert estimate_link(US, NEIGHBOUR, direct_access=True).kind is LinkKind.SHARED_MEMORY
    assert estimate_link(US, NEIGHBOUR, direct_access=False).kind is LinkKind.LOOPBACK


def test_gpus_of_one_host_should_have_nvlink_whatever_the_transport_is_kept_from() -> None:
    for direct_access in (True, False):
        found = estimate_link(US, NEIGHBOUR, direct_access=direct_access, between_gpus=True)
        assert found.kind is LinkKind.GPUS
        assert found.least_bytes_per_s == 20e9
        for cause in ("hostPID", "UCX_TLS", "cuda_ipc", "shown the other's GPU"):
            assert cause in found.advice


def test_gpus_of_two_hosts_are_measured_against_the_adapter_and_told_of_gpudirect(
    tmp_path: Path,
) -> None:
    write(tmp_path / "sys/class/infiniband/mlx5_0/ports/1/rate", "400 Gb/sec (4X NDR)\n")
    found = estimate_link(US, STRANGER, direct_access=True, between_gpus=True, root=tmp_path)
    assert found.kind is LinkKind.GPU_NETWORK
    assert found.least_bytes_per_s == 0.25 * 50e9
    assert "nvidia_peermem" in found.advice


def test_a_network_link_is_measured_against_the_fastest_adapter(tmp_path: Path) -> None:
    write(tmp_path / "sys/class/net/eth0/speed", "10000\n")
    write(tmp_path / "sys/class/net/lo/speed", "-1\n")
    write(tmp_path / "sys/class/infiniband/mlx5_0/ports/1/rate", "400 Gb/sec (4X NDR)\n")
    found = estimate_link(US, STRANGER, direct_access=True, root=tmp_path)
    assert found.kind is LinkKind.NETWORK
    assert "mlx5_0" in found.why
    assert found.least_bytes_per_s == 0.25 * 50e9


def test_adapters_that_tell_nothing_are_not_guessed_at(tmp_path: Path) -> None:
    write(tmp_path / "sys/class/net/eth0/speed", "")
    found = estimate_link(US, STRANGER, direct_access=True, root=tmp_path)
    assert "no network adapter" in found.why


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)

"""The wheel of NIXL is the one for PyTorch's CUDA."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch

from engine.errors import ConfigError
from kv_transfer.transports.nixl.bindings import (
    MODULE,
    MODULES,
    VERSION,
    choose_module,
    torch_cuda,
)
from worker.config import WorkerConfig
from worker.rank.transport import make_transport

pytestmark = pytest.mark.quick

ROOT = Path(__file__).resolve().parents[2]
BOTH = {"nixl_cu12", "nixl_cu13"}


def chosen(cuda: str | None, installed: set[str]) -> str:
    return choose_module(cuda, installed.__contains__)


@pytest.mark.parametrize(
    ("cuda", "installed", "module"),
    [
        ("13.0", BOTH, "nixl_cu13"),
        ("12.8", BOTH, "nixl_cu12"),
        ("12.6", {"nixl_cu12"}, "nixl_cu12"),
        (None, BOTH, "nixl_cu13"),
        (None, {"nixl_cu12"}, "nixl_cu12"),
    ],
)
def test_the_wheel_follows_pytorch_s_cuda(
    cuda: str | None, installed: set[str], module: str
) -> None:
    assert chosen(cuda, installed) == module


@pytest.mark.parametrize(
    ("cuda", "installed", "words"),
    [
        ("13.0", {"nixl_cu12"}, "CUDA 13.0, beside which nixl_cu12 .* pip install nixl-cu13=="),
        ("12.8", {"nixl_cu13"}, "CUDA 12.8, beside which nixl_cu13 .* pip install nixl-cu12=="),
        ("13.0", set(), "CUDA 13.0: pip install nixl-cu13=="),
        ("14.1", BOTH, "CUDA 14.1.*wheels for CUDA 12 and 13"),
        (None, set(), "not installed: pip install nixl-cu13=="),
    ],
)
def test_what_is_missing_is_named_with_its_command(
    cuda: str | None, installed: set[str], words: str
) -> None:
    with pytest.raises(ImportError, match=words):
        chosen(cuda, installed)


def test_pytorch_s_cuda_is_read_without_importing_it() -> None:
    assert torch_cuda() == torch.version.cuda


def test_this_process_has_the_wheel_for_its_pytorch() -> None:
    assert MODULE in MODULES.values()
    if torch.version.cuda is not None:
        major = int(torch.version.cuda.partition(".")[0])
        assert MODULES[major] == MODULE


def test_the_version_in_messages_is_the_one_that_is_installed_with_tandem() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"nixl-cu13=={VERSION}" in project["dependencies"]


def test_a_worker_without_nixl_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*arguments: object) -> object:
        raise ImportError("NIXL is not installed: pip install it")

    monkeypatch.setattr("builtins.__import__", absent)
    with pytest.raises(ConfigError, match=r"^transport 'nixl': NIXL is not .* pip install"):
        make_transport(WorkerConfig(model="m"), "us")

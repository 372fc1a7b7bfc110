"""What `tandem` says when something is wrong: one line with the cause and the remedy."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cluster.bundled import BUNDLED_MODEL

ROOT = Path(__file__).resolve().parents[2]


def tandem(*arguments: str) -> tuple[int, str]:
    """Exit status, and the last line on standard error."""
    ended = subprocess.run(
        [sys.executable, "-m", "cluster", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    lines = ended.stderr.strip().splitlines()
    return ended.returncode, lines[-1] if lines else ended.stdout


def test_an_unknown_key_is_named() -> None:
    status, error = tandem("up", "--without-ray", "--set", "prefill.replica=2")
    assert status == 2
    assert error == (
        "error: prefill.replica=2: Object contains unknown field `replica` - at `$.prefill`; "
        "did you mean `replicas`?"
    )


def test_a_port_that_is_none_is_one_sentence() -> None:
    status, error = tandem("up", "--http-port", "99999")
    assert status == 2
    assert error.startswith("error: router.http_port=99999: Expected `int` <= 65535")


def test_the_version_is_that_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert tandem("--version") == (0, f"tandem {project['version']}\n")


def test_an_occupied_port_is_named_with_the_key_to_change() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        status, error = tandem("up", "--without-ray", "--http-port", port)
    assert status == 2
    assert f"cannot listen on 127.0.0.1:{port}" in error
    assert "http_port" in error


@pytest.fixture
def broken_model(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    shutil.copytree(BUNDLED_MODEL, model)
    return model


def test_a_truncated_checkpoint_is_named(broken_model: Path) -> None:
    weights = broken_model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    status, error = tandem("up", "--without-ray", "--model", str(broken_model))
    assert status == 2
    assert "model.safetensors" in error


def test_a_model_without_a_tokenizer_is_named(broken_model: Path) -> None:
    (broken_model / "tokenizer.json").unlink()
    status, error = tandem("up", "--without-ray", "--model", str(broken_model))
    assert status == 2
    assert "tokenizer.json" in error


def test_an_unknown_architecture_is_named(broken_model: Path) -> None:
    config = broken_model / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "MambaForCausalLM"))
    status, error = tandem("up", "--without-ray", "--model", str(broken_model))
    assert status == 2
    assert "MambaForCausalLM" in error


def test_a_directory_that_is_none_is_named() -> None:
    status, error = tandem("up", "--without-ray", "--model", "/no/such/model")
    assert status == 2
    assert "/no/such/model" in error
    assert "Hugging Face model directory" in error

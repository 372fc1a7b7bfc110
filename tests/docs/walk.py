"""The stranger's walk: the commands of docs/walkthrough.md, run, and written down.

`python -m tests.docs.walk` refreshes the transcript.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import LlamaConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from cluster.bundled import BUNDLED_MODEL
from engine.kernels.build import default_cache
from tests.docs.blocks import ROOT, TRANSCRIPT, blocks
from tests.system.shells import BIN, Shell, a_free_port, ray_head

PAGE = ROOT / "docs" / "walkthrough.md"
HOST, MODEL = "10.0.0.1", "/srv/models/my-model"
HERE = "127.0.0.2"
"""For Ray, 127.0.0.1 is a name of any of this machine's addresses."""
PORTS = (6379, 8265, 8000, 8001)
INSTALLS = "pip install"
NOT_YET = "please try again later"
STARTS_RAY = "ray start --head"
PATIENCE_S = 250.0
NOISE = re.compile(
    r"\x1b\[[0-9;]*m"  # colours
    r"|^.*(?:packaging|working_dir)\.py.*\n"  # which files the job does not need
    r"|^(?:\x1b\[[0-9;]*m)*\d{4}-\S+ \S+\s(?:INFO|SUCC|WARN) \S+ -- (?=\S)",  # who says so
    re.M,
)
LOOK_EVERY_S = 0.5


class Walk:
    """`run` a command of the page, as it would run on the machine that the page speaks of."""

    def __init__(self, folder: Path) -> None:
        self.ports = {port: a_free_port() for port in PORTS}
        self._folder = folder
        self._head: Shell | None = None
        self._environment = {
            **{"HOME": str(folder), "TANDEM_CACHE_DIR": str(default_cache())},
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        write_checkpoint(folder / "my-model")

    def run(self, command: str, until: str = "") -> str:
        """What it prints, in the page's words; again until that holds `until`, for a while.

        Raises CalledProcessError, or AssertionError when it never does.
        """
        if command.startswith(STARTS_RAY):
            return self._start_ray(command)
        if command.startswith("export "):
            self._export(command)
            return ""
        deadline = time.monotonic() + PATIENCE_S
        while (said := self._run_once(command)) is None or until not in said:
            assert time.monotonic() < deadline, said
            time.sleep(LOOK_EVERY_S)
        return self._there(said)

    @property
    def head(self) -> int:
        """Process id of Ray's head, of which all else descends."""
        assert self._head is not None
        return self._head.process.pid

    def close(self) -> None:
        if self._head is not None:
            self._head.end(signal.SIGTERM)

    def _run_once(self, command: str) -> str | None:
        """None where Ray itself says that it has just started."""
        ended = subprocess.run(
            ["bash", "-ec", self._here(command)],
            **{"cwd": ROOT, "env": {**os.environ, **self._environment}, "text": True},
            **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "timeout": PATIENCE_S},
            check=False,
        )
        if ended.returncode != 0 and NOT_YET in ended.stdout:
            return None
        assert ended.returncode == 0, f"{command}: {ended.stdout}"
        return str(ended.stdout)

    def _export(self, command: str) -> None:
        """Once, as in the terminal where all further commands are given."""
        script = f"{self._here(command)}; env -0"
        told = subprocess.run(
            ["bash", "-ec", script],
            env={**os.environ, **self._environment},
            **{"check": True, "capture_output": True, "text": True},
        )
        self._environment = dict(it.split("=", 1) for it in told.stdout.split("\0") if it)

    def _start_ray(self, command: str) -> str:
        """With ports that nobody else has, and a place that goes away."""
        port, dashboard = self.ports[6379], self.ports[8265]
        words = [
            *self._here(command).split(),
            *(f"--port={port}", f"--dashboard-port={dashboard}"),
            *("--disable-usage-stats", f"--temp-dir={self._folder}/ray"),
        ]
        self._head = ray_head(lambda: words, self._environment)
        return "…\nRay runtime started.\n…\n"

    def _here(self, text: str) -> str:
        text = text.replace("cluster.yaml", self._settings())
        for there, here in self.ports.items():
            text = text.replace(f":{there}", f":{here}")
        return text.replace(HOST, HERE).replace(MODEL, str(self._folder / "my-model"))

    def _there(self, text: str) -> str:
        text = text.replace(str(self._folder / "my-model"), MODEL)
        for there, here in self.ports.items():
            text = text.replace(f":{here}", f":{there}")
        for file, name in ((f"{self._folder}/cluster.yaml", "cluster.yaml"), (self._folder, "~")):
            text = text.replace(str(file), name)
        text = text.replace(HERE, HOST)
        return NOISE.sub("", text)

    def _settings(self) -> str:
        """The page's configuration file, inside the directory that the job is given."""
        (text,) = [block.text for block in blocks(PAGE) if block.language == "yaml"]
        for key in ("http_port", "grpc_port"):
            text = re.sub(rf"{key}: (\d+)", lambda it: f"{key}: {self.ports[int(it[1])]}", text)  # noqa: B023
        text = text.replace(MODEL, str(self._folder / "my-model"))
        file = self._folder / "cluster.yaml"
        file.write_text(text)
        return str(file)


@contextmanager
def walking() -> Iterator[Walk]:
    folder = Path(tempfile.mkdtemp(prefix="walk-", dir="/tmp"))  # Ray's socket paths must be short
    walk = Walk(folder)
    try:
        yield walk
    finally:
        walk.close()
        shutil.rmtree(folder, ignore_errors=True)


def write_checkpoint(folder: Path) -> None:
    """Somebody's own: a Llama with random weights, and the bundled model's tokenizer."""
    vocab = json.loads((BUNDLED_MODEL / "config.json").read_text())["vocab_size"]
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=vocab, **sizes, **heads)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(BUNDLED_MODEL / name, folder / name)


def commands() -> list[str]:
    return [each for it in blocks(PAGE) if it.language == TRANSCRIPT for each in it.commands]


def awaited(command: str) -> str:
    """What the page says to wait for."""
    return "Ctrl-C stops" if command.startswith("ray job logs") else ""


def _refresh() -> None:
    text = PAGE.read_text()
    with walking() as walk:
        for block in (it for it in blocks(PAGE) if it.language == TRANSCRIPT):
            told = []
            for command in block.commands:
                installs = INSTALLS in command
                said = "…\n" if installs else walk.run(command, awaited(command))
                told.append(f"$ {command}\n{said}".rstrip("\n") + "\n")
            text = text.replace(block.text, "".join(told))
    PAGE.write_text(text)


if __name__ == "__main__":
    _refresh()

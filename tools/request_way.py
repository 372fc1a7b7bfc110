"""Prints the path of a request through the code: the files and functions of each of its parts.

    python -m tools.request_way [--tree DIR]

A cluster of one prefill and one decode worker serves the bundled model, traced from the start of
each process. Prints three parts of the path: from the first byte at the HTTP server to `Submit`,
from a worker's message to the client, and from `Offer` to the sequence's new worker. With `--tree`
the code of another checkout is traced, so that two versions can be compared.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median_low
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
HOOK = Path(__file__).with_name("request_way_hook.py")
PATIENCE_S = 180.0
NUM_TOKENS = 40
READY = "Ctrl-C stops"
Visits = frozenset[tuple[str, str]]
"""(file, function) of every function that ran."""


def main(
    tree: Annotated[Path, typer.Option(help="Whose code is traced.")] = ROOT,
    http_port: Annotated[int, typer.Option(help="Where the traced router listens.")] = 18700,
    functions: Annotated[bool, typer.Option(help="List the functions, too.")] = False,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        with serving(tree.resolve(), Path(folder), http_port):
            for _ in range(3):
                ask(http_port)
        parts = list(traced(Path(folder)))
    table = Table("part of the way", "files", "functions", "rooms")
    for name, visits in parts:
        files = {file for file, _ in visits}
        rooms = sorted({file.split("/")[0] for file in files})
        table.add_row(name, str(len(files)), str(len(visits)), ", ".join(rooms))
    Console(width=120).print(table)
    for name, visits in parts if functions else ():
        print(name, *(f"    {file} {function}" for file, function in sorted(visits)), sep="\n")


@contextmanager
def serving(tree: Path, folder: Path, http_port: int) -> Iterator[None]:
    """A cluster of `tree`; every process writes its windows into `folder` as it ends."""
    (folder / "sitecustomize.py").write_text(HOOK.read_text())
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder}:{tree}",
        "TANDEM_WAY_TREE": str(tree),
        "TANDEM_WAY_FOLDER": str(folder),
    }
    command = [sys.executable, "-m", "cluster", "up", "--without-ray", "--grpc-port", "0"]
    command += ["--http-port", str(http_port), "--set", "router.split=always"]
    process = subprocess.Popen(
        command,
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until_ready(process)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE_S)


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    """Raises SystemExit if the cluster ends before every worker is ready."""
    assert process.stdout is not None
    for line in process.stdout:
        if READY in line:
            return
    raise SystemExit("the traced cluster did not become ready")


def ask(http_port: int) -> None:
    body = {"model": "tiny-python", "prompt": "def add(a, b):\n" * 20, "stream": True}
    body |= {"max_tokens": NUM_TOKENS, "ignore_eos": True, "temperature": 0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{http_port}/v1/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        answer.read()


def traced(folder: Path) -> Iterator[tuple[str, Visits]]:
    """The three parts of the way: for each, the window of median length."""
    windows: dict[str, list[Visits]] = {}
    for file in folder.glob("*.windows"):
        for line in file.read_text().splitlines():
            name, visits = json.loads(line)
            windows.setdefault(name, []).append(frozenset(map(tuple, visits)))
    yield "HTTP request to Submit", middle(windows["submit"])
    yield "worker's message to the client", middle(windows["token"])
    yield "Offer to the new worker", middle(windows["source"]) | middle(windows["destination"])


def middle(seen: Iterable[Visits]) -> Visits:
    by_length = sorted(seen, key=len)
    length = median_low([len(each) for each in by_length])
    return next(each for each in by_length if len(each) == length)


if __name__ == "__main__":
    typer.run(main)

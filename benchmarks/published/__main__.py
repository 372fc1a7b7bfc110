"""Published settings served by the simulation, and a table of both sides' numbers.

    python -m benchmarks.published [--measured DIR] [--only exo,vllm_runs] [--assumed]

`--measured` has the published data; each setting says what it lacks and where it comes from. What
every setting assumes is at the head of its file, and printed with `--assumed`. Takes some minutes
of one core for each setting.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.published.result import DataMissing, table

SETTINGS = ("vllm_runs", "exo", "distserve", "prfaas", "taichi", "splitwise", "negative", "silicon")


def main(
    measured: Annotated[Path, typer.Option(help="Folder of the published data.")] = Path(
        "data/measured"
    ),
    only: Annotated[str, typer.Option(help="Settings, with commas.")] = ",".join(SETTINGS),
    assumed: Annotated[bool, typer.Option(help="Print what is assumed, too.")] = False,
) -> None:
    for name in only.split(","):
        if name not in SETTINGS:
            raise typer.BadParameter(f"{name} is none of {', '.join(SETTINGS)}")
        module = import_module(f"benchmarks.published.{name}")
        if assumed:
            print(module.__doc__)
        try:
            print(table(module.results(measured)), flush=True)
        except DataMissing as error:
            print(f"{name}: {error}")
        print()


if __name__ == "__main__":
    typer.run(main)

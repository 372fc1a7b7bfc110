"""The command line: ``python -m tools.train_tiny train|export|evaluate|sample|card``."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import train as training


def parser() -> argparse.ArgumentParser:
    """The commands and what they take."""
    defaults = training.Settings()
    top = argparse.ArgumentParser(prog="python -m tools.train_tiny", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    for name in ("train", "export"):
        command = commands.add_parser(name)
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--work", type=Path, required=True)
        command.add_argument("--seed", type=int, default=defaults.seed)
        command.add_argument("--steps", type=int, default=defaults.steps)
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--compile", action="store_true")
    return top


def main() -> None:
    """Runs one command."""
    options = parser().parse_args()
    if options.command in ("train", "export"):
        run = training.Run(options.work, options.out, options.threads, options.compile)
        if options.command == "export":
            training.export(run)
        else:
            training.train(training.Settings(seed=options.seed, steps=options.steps), run)


if __name__ == "__main__":
    main()

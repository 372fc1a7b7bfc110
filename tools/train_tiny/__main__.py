"""The command line: ``python -m tools.train_tiny train|export|card|evaluate|sample``."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from . import train as training
from .card import write_card
from .evaluate import as_json, evaluate
from .sample import samples

COMMANDS = {
    "train": "train the tokenizer and the model, or go on where a killed run stopped",
    "export": "write the last checkpoint of an unfinished run as a model folder",
    "card": "evaluate a finished run's model, and write its card and licence",
    "evaluate": "held-out loss of a model and of the trigram baseline",
    "sample": "answers to a few prompts",
}


def parser() -> argparse.ArgumentParser:
    """The commands and what they take."""
    top = argparse.ArgumentParser(prog="python -m tools.train_tiny", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("--out", type=Path, required=True, help="the model's folder")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--threads", type=int, default=1)
        if name in ("train", "export", "card"):
            command.add_argument("--work", type=Path, required=True, help="for checkpoints")
        if name == "train":
            command.add_argument("--steps", type=int, default=training.Settings().steps)
            command.add_argument("--compile", action="store_true", help="needs a C++ compiler")
        if name == "sample":
            command.add_argument("--temperature", type=float, default=0.7, help="0 is greedy")
    return top


def run_training(options: argparse.Namespace) -> None:
    """The commands that make weights."""
    if options.command == "export":
        training.export(training.Run(options.work, options.out))
        return
    run = training.Run(options.work, options.out, compiled=options.compile)
    training.train(training.Settings(seed=options.seed, steps=options.steps), run)


def say(text: str) -> None:
    """Writes a result; progress goes to the log."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Runs one command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = parser().parse_args()
    training.use_threads(options.threads)
    match options.command:
        case "train" | "export":
            run_training(options)
        case "card":
            say(as_json(write_card(options.out, options.work)))
        case "evaluate":
            say(as_json(evaluate(options.out)))
        case "sample":
            for text in samples(options.out, options.temperature, options.seed):
                say(text)


if __name__ == "__main__":
    main()

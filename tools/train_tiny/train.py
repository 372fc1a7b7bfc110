"""Training: AdamW, a warm-up and a cosine, checkpoints that a killed run resumes from."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from .corpus import SourceFile, load_corpus
from .data import Batches, Windows, encode_chats, encode_file
from .model import MAX_POSITIONS, export_weights, new_model, write_json
from .tokenizer import load_tokenizer, save_tokenizer, train_tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """Everything that decides what comes out."""

    seed: int = 0
    steps: int = 3600
    batch_size: int = 4
    window: int = 512
    peak_rate: float = 2.5e-3
    warmup: int = 200
    weight_decay: float = 0.1
    clip: float = 1.0


@dataclass(frozen=True)
class Run:
    """How a run is carried out; it has no say in the result, rounding aside."""

    work: Path
    out: Path
    compiled: bool = False
    checkpoint_every: int = 100


def use_threads(count: int) -> None:
    """One by default: a model this small gains little from more, and others may need them."""
    torch.set_num_threads(count)


def learning_rate(step: int, settings: Settings) -> float:
    """Straight up during the warm-up, then a half cosine down to nothing."""
    if step < settings.warmup:
        return settings.peak_rate * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.peak_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def make_optimizer(model: LlamaForCausalLM, settings: Settings) -> torch.optim.AdamW:
    """Weight decay is for matrices; the gains of the norms stay free."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    gains = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.peak_rate, betas=(0.9, 0.95), fused=True)


def prepare_tokenizer(files: list[SourceFile], out: Path) -> PreTrainedTokenizerBase:
    """Trains the tokenizer into the result's folder (seconds, and the same each time)."""
    save_tokenizer(train_tokenizer(file.text for file in files), out, MAX_POSITIONS)
    return load_tokenizer(out)


def prepare(settings: Settings, run: Run) -> Windows:
    """The token streams of the training files."""
    files = load_corpus().train
    tokenizer = prepare_tokenizer(files, run.out)
    return Windows(
        files=[encode_file(tokenizer, file) for file in files],
        chats=encode_chats(tokenizer, files, settings.seed, settings.window),
        window=settings.window,
        seed=settings.seed,
    )


class Trainer:
    """One training run, from nothing or from its last checkpoint."""

    def __init__(self, settings: Settings, run: Run, windows: Windows) -> None:
        self.settings, self.run = settings, run
        self.model = new_model(settings.seed)
        self.optimizer = make_optimizer(self.model, settings)
        self.batches = Batches(windows, settings.batch_size)
        self.step = 0
        self.seconds = 0.0
        self._forward: Callable[..., Any] = self.model
        if run.compiled:
            self._forward = torch.compile(self.model)

    def resume(self) -> None:
        """Goes back to the last checkpoint, if there is one."""
        path = self.run.work / "checkpoint.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        """Writes a checkpoint beside the old one and then replaces it."""
        self.run.work.mkdir(parents=True, exist_ok=True)
        path = self.run.work / "checkpoint.pt"
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def advance(self) -> float:
        """One step; gives its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.settings)
        rows = torch.from_numpy(self.batches.batch(self.step))
        logits = self._forward(input_ids=rows[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return float(loss.detach())

    def train(self) -> None:
        """All remaining steps, told about and kept now and then."""
        losses: list[float] = []
        while self.step < self.settings.steps:
            started = time.monotonic()
            losses.append(self.advance())
            self.seconds += time.monotonic() - started
            if self.step % self.run.checkpoint_every == 0 or self.step == self.settings.steps:
                self.report(sum(losses) / len(losses))
                self.save()
                losses.clear()

    def report(self, loss: float) -> None:
        """One line of progress."""
        tokens = self.step * self.settings.batch_size * self.settings.window
        rate = tokens / self.seconds
        log.info("step %d  loss %.4f  %.0f tokens/s", self.step, loss, rate)


def train(settings: Settings, run: Run) -> None:
    """From the library's sources to a folder with weights, and what it took."""
    windows = prepare(settings, run)
    log.info("%d tokens an epoch", windows.tokens)
    trainer = Trainer(settings, run, windows)
    trainer.resume()
    trainer.train()
    export_weights(trainer.model.state_dict(), run.out)
    facts = {
        **asdict(settings),
        "compiled": run.compiled,
        "epoch_tokens": windows.tokens,
        "seconds": trainer.seconds,
    }
    write_json(run.work / "training.json", facts)


def export(run: Run) -> None:
    """Writes the last checkpoint's weights, be the run finished or not."""
    prepare_tokenizer(load_corpus().train, run.out)
    state = torch.load(run.work / "checkpoint.pt", weights_only=True)
    export_weights(state["model"], run.out)

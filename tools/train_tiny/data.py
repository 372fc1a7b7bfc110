"""Token streams and training windows: which tokens a step sees, from the seed alone."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from .chat import conversations
from .corpus import SourceFile
from .tokenizer import BEGIN, END

Tokens = npt.NDArray[np.int64]


def encode_file(tokenizer: PreTrainedTokenizerBase, file: SourceFile) -> Tokens:
    """A file's tokens between the two that mark where a text begins and ends."""
    text = BEGIN + file.text + END
    ids = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    return np.array(ids, dtype=np.int64)


def encode_chats(
    tokenizer: PreTrainedTokenizerBase, files: list[SourceFile], seed: int, window: int
) -> list[Tokens]:
    """The chat samples that fit a window, formatted by the very template that users get."""
    found = []
    for messages in conversations(files, random.Random(seed)):
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        ids = tokenizer.encode(str(text), add_special_tokens=False)
        if len(ids) <= window:
            found.append(np.array(ids, dtype=np.int64))
    return found


@dataclass(frozen=True)
class Windows:
    """All training windows; an epoch shows every token of both kinds about once."""

    files: list[Tokens]
    chats: list[Tokens]
    window: int
    seed: int

    @property
    def tokens(self) -> int:
        """How many tokens an epoch has."""
        return sum(map(len, self.files)) + sum(map(len, self.chats))

    def epoch(self, number: int) -> Tokens:
        """The epoch's windows, one a row, each with one token more than is predicted."""
        rng = np.random.default_rng([self.seed, number])
        rows = [self._cut(self.files, rng), self._cut(self.chats, rng)]
        windows = np.concatenate(rows)
        return windows[rng.permutation(len(windows))]

    def _cut(self, texts: list[Tokens], rng: np.random.Generator) -> Tokens:
        """Texts in a new order and cut at a new phase, so no two epochs cut alike."""
        stream = np.concatenate([texts[i] for i in rng.permutation(len(texts))])
        stream = stream[int(rng.integers(self.window)) :]
        count = (len(stream) - 1) // self.window
        starts = np.arange(count)[:, None] * self.window
        rows: Tokens = stream[starts + np.arange(self.window + 1)[None, :]]
        return rows


class Batches:
    """The batch of any step, so that a resumed run goes on as if never stopped."""

    def __init__(self, windows: Windows, batch_size: int) -> None:
        self._windows = windows
        self._batch_size = batch_size
        self._past: list[Tokens] = []

    def batch(self, step: int) -> Tokens:
        """The rows of one step (the steps of an epoch leave its incomplete batch out)."""
        epoch = 0
        while step >= (steps := len(self._epoch(epoch)) // self._batch_size):
            step, epoch = step - steps, epoch + 1
        start = step * self._batch_size
        return self._epoch(epoch)[start : start + self._batch_size]

    def _epoch(self, number: int) -> Tokens:
        """An epoch's windows, made when first needed."""
        while len(self._past) <= number:
            self._past.append(self._windows.epoch(len(self._past)))
        return self._past[number]

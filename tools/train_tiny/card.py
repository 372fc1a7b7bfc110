"""The model card and the licence that go with the weights."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

from .corpus import stdlib_root
from .evaluate import Figures, evaluate
from .model import MAX_POSITIONS, load_model
from .sample import answer
from .tokenizer import load_tokenizer

# Prompt and temperature of the samples that the card shows.
SHOWN = (("def read_lines(path):", 0.0), ("Write a function that returns the sum of a list.", 0.7))

CARD = """\
---
license: psf-2.0
pipeline_tag: text-generation
library_name: transformers
---

# tiny-python

A Llama of {parameters:,} parameters that writes Python in the manner of the standard library.
It is bundled so that a server can be tried and tested on any machine, with no download. It is
**not useful for anything else**: the text looks like Python, and means little.

| | |
|---|---|
| architecture | `LlamaForCausalLM`, 4 layers, hidden 256, 8 heads of 32 (4 for keys and values), \
feed-forward 640, tied embeddings |
| weights | bfloat16 |
| vocabulary | {vocabulary}, byte-level BPE; no text has an unknown token |
| trained window | **{window} tokens** |
| `max_position_embeddings` | {positions}, for tests of a server's mechanics only: beyond \
the trained window the text falls apart |

## Corpus and licence

Trained on the sources of the Python {python} standard library (`*.py`, {train_files} files, \
{train_bytes:,} bytes), without tests, IDLE, lib2to3, generated tables and installed packages.
Copyright © 2001-2023 Python Software Foundation; All Rights Reserved. The sources are used under
the PSF licence, a copy of which is in `LICENSE`. Some files of the library carry notices of their
authors as well, under permissive licences. The weights are a derived work and come under the
same licence; there is no warranty. The model can repeat passages of the library word for word.

## How it was made

```
python -m tools.train_tiny train --work WORK --out models/tiny-python{options}
python -m tools.train_tiny card --work WORK --out models/tiny-python
```

Seed {seed}, {steps} steps of {batch_size} windows of {window} tokens ({trained:.1f} million \
tokens, {epochs:.1f} epochs), AdamW, warm-up of {warmup} steps to a rate of {peak_rate} and a \
cosine to nothing, float32 on one CPU thread, {minutes:.0f} minutes ({rate:.0f} tokens a second).
An epoch holds every source file once, and chat samples made of the same files with `ast`: a
header line answered with the body, and "Write a function that ..." (a docstring's first sentence)
answered with the whole function.

## Figures

On {held_out_files} files ({held_out_tokens:,} tokens, {held_out_bytes:,} bytes), chosen by a hash
of their path, that neither the tokenizer nor the model has seen; windows of {window} tokens that
overlap by half. The baseline is an interpolated Kneser-Ney trigram over the same tokens, counted
on all training files, with its discounts tuned on a slice of them.

| | nats per token | bits per byte |
|---|---|---|
| this model (bf16 weights) | **{model_nats_per_token:.3f}** | **{model_bits_per_byte:.3f}** |
| trigram | {trigram_nats_per_token:.3f} | {trigram_bits_per_byte:.3f} |

## Chat

`<|begin|>`, then `<|system|>`, `<|user|>` or `<|assistant|>` before each message and `<|end|>`
after it. The end token is also the end of a text, so that most answers stop by themselves; some
run in circles until the limit, greedy ones more often than sampled ones. Ask with a header
(`def name(args):`, `class Name:`) or with "Write a function that ...". As with other Llama
tokenizers, plain encoding puts `<|begin|>` first, and the chat template brings its own: text made
by the template is encoded with `add_special_tokens=False`.
The template shows tools and calls as JSON, so that a client's tools can be tried; the model has
never seen any, and calls one only where the request requires it.

## Samples

Verbatim, from the weights in this folder.
{samples}"""


def shown_samples(folder: Path) -> str:
    """The card's samples, as they come."""
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    parts = []
    for prompt, temperature in SHOWN:
        manner = f"temperature {temperature}, seed 0" if temperature else "greedy"
        text = answer(model, tokenizer, prompt, temperature, seed=0)
        parts.append(f"\n`{prompt}` ({manner}):\n\n```python\n{text}\n```\n")
    return "".join(parts)


def card_text(folder: Path, training: dict[str, Any], figures: Figures) -> str:
    """The card, from the training's own account and the evaluation."""
    tokens = training["steps"] * training["batch_size"] * training["window"]
    return CARD.format(
        **training,
        **vars(figures),
        vocabulary=len(load_tokenizer(folder)),
        positions=MAX_POSITIONS,
        python=platform.python_version(),
        options=" --compile" if training["compiled"] else "",
        trained=tokens / 1e6,
        epochs=tokens / training["epoch_tokens"],
        minutes=training["seconds"] / 60,
        rate=tokens / training["seconds"],
        samples=shown_samples(folder),
    )


def library_licence() -> str:
    """The library's licence, which Python keeps beside its sources."""
    return (stdlib_root() / "LICENSE.txt").read_text()


def write_card(folder: Path, work: Path) -> Figures:
    """Evaluates the weights and writes the card and the licence beside them."""
    figures = evaluate(folder)
    training = json.loads((work / "training.json").read_text())
    (folder / "LICENSE").write_text(library_licence())
    (folder / "README.md").write_text(card_text(folder, training, figures))
    return figures

"""Revisions of the bundled model: copies whose weights differ."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from cluster.bundled import BUNDLED_MODEL


def a_revision(folder: Path, seed: int) -> Path:
    """Another fine-tuning, so to speak: every matrix a little different, the tokenizer the same."""
    shutil.copytree(BUNDLED_MODEL, folder)
    torch.manual_seed(seed)
    weights = load_file(folder / "model.safetensors")
    changed = {
        name: tensor + 0.5 * tensor.std() * torch.randn_like(tensor)
        if tensor.dim() == 2
        else tensor
        for name, tensor in weights.items()
    }
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder

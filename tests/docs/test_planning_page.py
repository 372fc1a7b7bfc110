"""The command of docs/planning.md plans what the page shows: its lines, its verdict, its costs
within a quarter. Other digits change with every change of placement."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cluster.config import load_config
from tests.docs.blocks import ROOT, TRANSCRIPT, blocks
from tests.docs.simulation_page import PROMPT, run, steps

PAGE = ROOT / "docs" / "planning.md"
LLAMA_8B = {
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}
COST = re.compile(r"^cost per hour +([\d.,]+)", re.M)
LABEL = re.compile(r"^([A-Za-z ]+?)(?: {2,}|:)", re.M)


def page_block() -> str:
    (block,) = [block for block in blocks(PAGE) if block.language == TRANSCRIPT]
    return block.text


def planned(folder: Path) -> str:
    (folder / "Llama-3.1-8B").mkdir()
    (folder / "Llama-3.1-8B" / "config.json").write_text(json.dumps(LLAMA_8B))
    (step,) = run(steps(page_block()), folder)
    return step.output


def test_the_command_plans_what_the_page_shows(tmp_path: Path) -> None:
    (told,) = steps(page_block())
    now = planned(tmp_path)
    assert LABEL.findall(now) == LABEL.findall(told.output), now
    (cost,), (shown) = COST.findall(now), COST.findall(told.output)
    assert float(cost) == pytest.approx(float(shown[0]), rel=0.25)
    assert load_config(str(tmp_path / "cluster.yaml"), {}).pools


def refresh() -> None:
    """Write what the command prints now into the page.

    `python -m tests.docs.test_planning_page` does it.
    """
    import tempfile

    (told,) = steps(page_block())
    with tempfile.TemporaryDirectory() as folder:
        now = planned(Path(folder))
    text = PAGE.read_text()
    PAGE.write_text(text.replace(page_block(), PROMPT + told.command + now))


if __name__ == "__main__":
    refresh()

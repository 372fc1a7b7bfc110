"""Published settings beside the simulation, as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.published import vllm_runs
from benchmarks.published.result import DataMissing, Result, table


def test_data_that_are_missing_are_named_with_their_source(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"llmservingsim-vllm-runs is not there: fetch casys-"):
        vllm_runs.results(tmp_path)


def test_a_result_is_within_its_bar_or_not() -> None:
    off = Result(setting="s", quantity="q", published=2.0, ours=2.4, bar=0.15)
    assert not off.within
    assert "NO (15%)" in table([off])
    share = Result(setting="s", quantity="q", published=0.1, ours=0.2, bar=0.15, differs=True)
    assert share.within
    better = Result(setting="s", quantity="q", published=1.0, ours=0.5, bar=0.1, at_most=True)
    assert better.within


@pytest.mark.long
def test_the_pair_of_unlike_boxes_is_as_fast_as_published(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.published", "--only", "exo,silicon"]
    done = subprocess.run(
        [*command, "--measured", str(tmp_path)], capture_output=True, text=True, check=True
    )
    fitted = [line for line in done.stdout.splitlines() if "fitted to each box" in line]
    assert len(fitted) == 4
    assert all("yes (15%)" in line for line in fitted)
    assert "silicon_sample.csv is not there: fetch the wheel aisimulate" in done.stdout

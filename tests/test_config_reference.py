"""The reference of all settings says what the code says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import pytest
import yaml

from cluster.config import ClusterConfig, load_config
from tools import config_reference
from tools.config_reference import FILE, INTRODUCTION, SECTIONS, docstrings, reference, undocumented

pytestmark = pytest.mark.quick

REFRESH = "run `python -m tools.config_reference`"


def test_the_reference_is_current() -> None:
    assert FILE.read_text() == reference(), REFRESH


@pytest.mark.parametrize("kind", SECTIONS, ids=lambda kind: kind.__name__)
def test_every_field_says_what_it_is(kind: type[msgspec.Struct]) -> None:
    assert undocumented(kind) == []


def test_every_struct_that_a_file_may_have_in_it_has_a_section() -> None:
    listed = set(SECTIONS)
    found = set().union(*map(config_reference.reachable, listed))
    assert ClusterConfig in listed
    assert found == listed


class _Base(msgspec.Struct):
    inherited: int = 1
    """From the base."""


class _Sample(_Base):
    plain: int = 1
    """One
    line."""
    bare: int = 2
    wrapped: Annotated[int, "x"] = 3
    """Yes."""


def test_docstrings_are_found_under_fields_and_in_bases() -> None:
    assert docstrings(_Sample) == {
        "inherited": "From the base.",
        "plain": "One line.",
        "wrapped": "Yes.",
    }
    assert undocumented(_Sample) == ["bare"]


def test_a_field_without_words_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SECTIONS, _Sample, ("A sample", "sample"))
    with pytest.raises(LookupError, match=r"_Sample\.bare"):
        reference()


@pytest.mark.parametrize("text", INTRODUCTION.split("```yaml\n")[1:], ids=["short", "by name"])
def test_examples_are_configurations(text: str, tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    example = text.partition("```")[0].replace("/models", str(tmp_path))
    file.write_text(example)
    for name in ("Llama-3.1-8B-Instruct", "Qwen3-0.6B"):
        (tmp_path / name).mkdir()
    config = load_config(str(file), {})
    assert {"llama"} <= set(config.models)
    assert len(config.pools) == len(yaml.safe_load(example).get("pools", "12"))

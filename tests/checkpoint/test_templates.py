"""Chat templates by name, as transformers finds them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from checkpoint.errors import BrokenDirectory
from checkpoint.templates import read_templates
from tests.router.tokenizers import FAMILIES

pytestmark = pytest.mark.quick

LISTED = [{"name": "default", "template": "listed"}, {"name": "tool_use", "template": "stale"}]
MESSAGES = [{"role": "user", "content": "a"}]
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {}}}]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    FAMILIES["qwen2"]().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def write(directory: Path, configured: object = None, **files: str) -> None:
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": configured}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    for name, text in files.items():
        folder = directory if name == "chat_template" else directory / "additional_chat_templates"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.jinja").write_text(text)


@pytest.mark.parametrize(
    ("configured", "files", "expected"),
    [
        ("one", {}, {"default": "one"}),
        (LISTED, {}, {"default": "listed", "tool_use": "stale"}),
        (LISTED, {"chat_template": "file"}, {"default": "file"}),
        (
            LISTED,
            {"chat_template": "file", "tool_use": "tools", "rag": "documents"},
            {"default": "file", "tool_use": "tools", "rag": "documents"},
        ),
        (None, {"tool_use": "tools"}, {"tool_use": "tools"}),
        (None, {}, {}),
    ],
)
def test_files_of_their_own_win(
    configured: object, files: dict[str, str], expected: dict[str, str], directory: Path
) -> None:
    write(directory, configured, **files)
    assert read_templates(directory) == expected
    theirs = AutoTokenizer.from_pretrained(str(directory))
    for tools, name in ((None, "default"), (TOOLS, "tool_use")):
        text = expected.get(name, expected.get("default"))
        if text is not None:
            made = theirs.apply_chat_template(MESSAGES, tools=tools, tokenize=False)
            assert made == text


@pytest.mark.parametrize("configured", [3, [{"name": "default"}], ["a"], {"default": 1}])
def test_what_is_no_template_is_refused(configured: object, directory: Path) -> None:
    write(directory, configured)
    with pytest.raises(BrokenDirectory, match=r"tokenizer_config\.json: chat_template must be"):
        read_templates(directory)


def test_a_file_that_is_no_text_is_named(directory: Path) -> None:
    (directory / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(BrokenDirectory, match=r"chat_template\.jinja cannot be read"):
        read_templates(directory)

"""The chat templates of a model directory, by name; "default" is for chats without tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from checkpoint.errors import BrokenDirectory
from checkpoint.json_file import read_object


def read_templates(directory: Path) -> dict[str, str]:
    """Read all templates. Template files replace those in tokenizer_config.json, which may be
    stale.

    Raises BrokenDirectory.
    """
    files = {"default": directory / "chat_template.jinja"}
    more = sorted((directory / "additional_chat_templates").glob("*.jinja"))
    files |= {path.stem: path for path in more}
    found = {name: _read(path) for name, path in files.items() if path.is_file()}
    return found or _configured(directory / "tokenizer_config.json")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BrokenDirectory(f"{path} cannot be read ({error}): download it again") from error


def _configured(path: Path) -> dict[str, str]:
    """Templates in tokenizer_config.json: a string (the default), a list of names and texts, or an
    object."""
    found: Any = read_object(path).get("chat_template") or {}
    if isinstance(found, str):
        return {"default": found}
    if isinstance(found, list) and all(map(_is_entry, found)):
        return {entry["name"]: entry["template"] for entry in found}
    if isinstance(found, dict) and all(isinstance(text, str) for text in found.values()):
        return found
    raise BrokenDirectory(
        f"{path}: chat_template must be a text, or a list of objects with name and template"
    )


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    return isinstance(entry.get("name"), str) and isinstance(entry.get("template"), str)

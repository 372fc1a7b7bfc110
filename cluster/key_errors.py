"""Error messages for configuration keys: the whole path, and a similar key that was probably
meant."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

_PATH = re.compile(r" - at `\$(.*)`$")
_UNKNOWN = re.compile(r"unknown field `(.*?)`")


def explain_key_error(
    error: msgspec.ValidationError, kind: type, keys: str = "", also: Iterable[str] = ()
) -> str:
    """The message for an error in one section of the configuration, with the key's whole path.

    Args:
        error: Raised when a `kind` was decoded.
        keys: Path of the section; "" for the whole configuration.
        also: Further keys that `kind` accepts.
    """
    text, path = str(error), ""
    if found := _PATH.search(text):
        text, path = text[: found.start()], found[1]
    whole_path = f".{keys}{path}" if keys else path
    message = f"{text} - at `${whole_path}`"
    if unknown := _UNKNOWN.search(text):
        message += _suggestion(unknown[1], [*_names_at(kind, path), *([] if path else also)])
    return message


def name_origin(text: str, path: str | None, overrides: Mapping[str, Any]) -> str:
    """The error's text, prefixed with the override that caused it, or else with the file."""
    for key, value in overrides.items():
        parent, _, name = key.rpartition(".")
        if f"`$.{key}`" in text or (f"field `{name}`" in text and f"`$.{parent}`" in text):
            return f"{key}={value}: {text}"
    return text if path is None else f"{path}: {text}"


def _suggestion(unknown: str, known: list[str]) -> str:
    close = difflib.get_close_matches(unknown, known, n=1)
    return f"; did you mean `{close[0]}`?" if close else ""


def _names_at(kind: Any, path: str) -> list[str]:
    """The fields of the struct at the path; empty if there is no struct."""
    for name in path.replace("[...]", "").split(".")[1:]:
        fields = {it.encode_name: it.type for it in msgspec.structs.fields(kind)}
        kind = _struct_in(fields.get(name))
    return [it.encode_name for it in msgspec.structs.fields(kind)] if kind is not None else []


def _struct_in(kind: Any) -> Any:
    """The struct inside a type such as `Struct | None` or `dict[str, Struct]`."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is not None:
        return next(filter(None, map(_struct_in, typing.get_args(kind))), None)
    return None

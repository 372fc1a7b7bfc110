"""Arguments of tool calls in a chat's history, converted for chat templates.

They may be cut off by `max_tokens`, or not be JSON at all, since the model wrote them; the
conversation must go on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

NOT_JSON = "arguments"
"""Key under which arguments that are not JSON are put into an object."""
_CLOSERS = {"{": "}", "[": "]"}
_HALF_ESCAPE = re.compile(r"(?<!\\)((?:\\\\)*)\\(?:u[0-9a-fA-F]{0,3})?$")


class Arguments(dict[str, Any]):
    """An object whose members templates can read, and which prints as JSON in `{{ arguments }}` and
    with `~`."""

    def __init__(self, members: dict[str, Any], text: str) -> None:
        super().__init__(members)
        self._text = text

    def __str__(self) -> str:
        return self._text


def as_object(text: str) -> Any:
    """The JSON's value, as an object if possible. Raises RecursionError."""
    value = _decoded(text or "{}")
    if value is None:
        attempts = map(_decoded, _completed(text))
        value = next((found for found in attempts if found is not None), None)
    if value is None:
        value = {} if text == "null" else {NOT_JSON: text}
    return Arguments(value, as_text(text)) if isinstance(value, dict) else value


def as_text(text: str) -> str:
    """The JSON as the model wrote it."""
    return text or "{}"


def _decoded(text: str) -> Any:
    """The value; None if the text is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _completed(text: str) -> Iterator[str]:
    """Possible completions of cut JSON, or its prefix if more text follows; the most complete
    first."""
    closers, quoted, escaped = list[str](), False, False
    whole, open_then = 0, ""
    for index, character in enumerate(text):
        if quoted:
            quoted = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            quoted = True
        elif character in _CLOSERS:
            closers.append(_CLOSERS[character])
            whole, open_then = index + 1, "".join(closers)
        elif character in "}]" and closers:
            closers.pop()
            if not closers:
                yield text[: index + 1]
                return
        elif character == ",":
            whole, open_then = index, "".join(closers)
    if quoted:
        yield _HALF_ESCAPE.sub(r"\1", text) + '"' + _closing(closers)
    yield text + _closing(closers)
    yield text[:whole] + _closing(open_then)


def _closing(closers: Sequence[str]) -> str:
    return "".join(reversed(closers))

"""A jinja sandbox that also limits size and time, since templates run in the router's process.

Templates come with the model, or from trusted clients, but their input comes from any client.
jinja's sandbox blocks access to Python, but not templates that produce gigabytes or never end.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
import jinja2.runtime
import jinja2.sandbox

MAX_CHARS = 32 * 1024 * 1024
"""Maximum length of a rendered prompt, and of each text that a template multiplies."""
MAX_EXPONENT = 256
MAX_SECONDS = 5.0
CHECK_EVERY = 64
"""Number of rendered chunks between two readings of the clock."""
_WIDE = re.compile(r"%[^a-zA-Z%]*(\d{4}|\*)")


class OutOfBounds(jinja2.TemplateError):
    """The template's output is too large, or takes too long."""


class BoundedSandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Rejects operators with huge results. `range` is limited to 100,000, as in jinja's sandbox."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        if operator == "**" and (abs(left) > MAX_CHARS or abs(right) > MAX_EXPONENT):
            raise OutOfBounds(f"{left} ** {right} is too large")
        if operator == "*" and _size(left) * _size(right) > MAX_CHARS:
            raise OutOfBounds("a multiplication's result is too large")
        if operator == "%" and isinstance(left, str) and _WIDE.search(left):
            raise OutOfBounds(f"{left!r} formats to a text that is too wide")
        return super().call_binop(context, operator, left, right)


def render(
    template: jinja2.Template,
    values: Mapping[str, Any],
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """The rendered text. Raises OutOfBounds beyond `MAX_CHARS`, or beyond `MAX_SECONDS` at the next
    output; also the template's own errors."""
    until, num_chars, pieces = clock() + MAX_SECONDS, 0, []
    for index, piece in enumerate(template.generate(values)):
        pieces.append(piece)
        num_chars += len(piece)
        if num_chars > MAX_CHARS:
            raise OutOfBounds(f"its output exceeds {MAX_CHARS} characters")
        if index % CHECK_EVERY == 0 and clock() > until:
            raise OutOfBounds(f"it takes longer than {MAX_SECONDS:g} s")
    return "".join(pieces)


def _size(value: Any) -> float:
    """The factor by which a value multiplies the other one."""
    return abs(value) if isinstance(value, int | float) else len(value)

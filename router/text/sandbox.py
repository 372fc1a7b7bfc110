"""jinja's sandbox, with bounds on what a template may make: it runs in the router's own process.

Templates come with the model, or from clients where the operator trusts them; what clients put
into them does not. A sandbox keeps a template from reaching Python; it does not keep it from making
a gigabyte, or from never ending.
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
"""Of a rendered prompt, and of each text that a template multiplies on the way."""
MAX_EXPONENT = 256
MAX_SECONDS = 5.0
LOOK_EVERY = 64
"""Pieces of text between two looks at the clock."""
_WIDE = re.compile(r"%[^a-zA-Z%]*(\d{4}|\*)")


class OutOfBounds(jinja2.TemplateError):
    """The template makes too much, or takes too long."""


class BoundedSandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Refuses operators that make much of little. `range` ends at 100,000, as in jinja's own."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        if operator == "**" and (abs(left) > MAX_CHARS or abs(right) > MAX_EXPONENT):
            raise OutOfBounds(f"{left} ** {right} is too large")
        if operator == "*" and _size(left) * _size(right) > MAX_CHARS:
            raise OutOfBounds("a multiplication makes too much")
        if operator == "%" and isinstance(left, str) and _WIDE.search(left):
            raise OutOfBounds(f"{left!r} formats to something too wide")
        return super().call_binop(context, operator, left, right)


def render(
    template: jinja2.Template,
    values: Mapping[str, Any],
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """The text. Raises OutOfBounds beyond `MAX_CHARS`, and beyond `MAX_SECONDS` as soon as the
    template says something; besides what templates raise."""
    until, num_chars, pieces = clock() + MAX_SECONDS, 0, []
    for index, piece in enumerate(template.generate(values)):
        pieces.append(piece)
        num_chars += len(piece)
        if num_chars > MAX_CHARS:
            raise OutOfBounds(f"it makes more than {MAX_CHARS} characters")
        if index % LOOK_EVERY == 0 and clock() > until:
            raise OutOfBounds(f"it takes longer than {MAX_SECONDS:g} s")
    return "".join(pieces)


def _size(value: Any) -> float:
    """How much a factor makes of the other."""
    return abs(value) if isinstance(value, int | float) else len(value)

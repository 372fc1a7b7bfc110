"""Ray's label selectors: which nodes they match."""

from __future__ import annotations

import re
from collections.abc import Mapping

_VALUE = r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]*[a-zA-Z0-9])?"
_SELECTOR = re.compile(rf"(!?)(?:in\(({_VALUE}(?:, ?{_VALUE})*)\)|({_VALUE}))")


def is_selector(text: str) -> bool:
    """Whether the text is a selector of Ray: "a", "!a", "in(a, b)" or "!in(a, b)"."""
    return _SELECTOR.fullmatch(text) is not None


def matches(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node's labels match all selectors. A missing label equals no value."""
    return all(_matches(selector, labels.get(key)) for key, selector in wanted.items())


def _matches(selector: str, value: str | None) -> bool:
    found = _SELECTOR.fullmatch(selector)
    assert found is not None, "the configuration was checked"
    negated, several, one = found.groups()
    values = [one] if several is None else re.split(r", ?", several)
    return (value in values) != bool(negated)

"""A regular expression of all texts except some."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_END = ""


def other_texts(texts: Iterable[str]) -> str:
    """A regular expression that matches every text except these."""
    tree: dict[str, Any] = {}
    for text in texts:
        node = tree
        for character in text:
            node = node.setdefault(character, {})
        node[_END] = True
    return f"^{_differing(tree)}$"


def _differing(node: dict[str, Any]) -> str:
    """The rest of a text that differs, behind a prefix that some of the texts have."""
    letters = [letter for letter in node if letter != _END]
    ways = [] if _END in node else [""]
    if letters:
        named = "".join(re.escape(letter) for letter in letters)
        ways.append(rf"[^{named}](.|\n)*")
        ways += [re.escape(letter) + _differing(node[letter]) for letter in letters]
    else:
        ways.append(r"(.|\n)+")
    return f"({'|'.join(ways)})"

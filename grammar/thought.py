"""Reasoning before an answer that follows a grammar."""

from __future__ import annotations

import re
from collections.abc import Mapping

from grammar.lark import quoted

BLANKS = r"[ \n]{0,8}"
"""White space between reasoning and answer. Without a bound a model may write nothing else."""


def thought(opening: str, closing: str, special_tokens: Mapping[str, int], *, begun: bool) -> str:
    """A grammar's preface: a thought that the prompt has `begun`, or one that the model may begin.

    It ends with the first `closing` mark; before that an answer cannot end.
    """
    if closing in special_tokens:
        thinking = rf"thinking: /(.|\n)*/ <[{special_tokens[closing]}]>"
    else:
        mark = re.escape(closing).replace("/", r"\/")
        thinking = f"thinking[lazy]: /(?s:.*){mark}/"
    begins = f"<[{special_tokens[opening]}]>" if opening in special_tokens else quoted(opening)
    start = "thinking blanks" if begun else f"(blanks {begins} thinking blanks)?"
    return "\n".join([f"preface: {start}", thinking, f"blanks: /{BLANKS}/"])

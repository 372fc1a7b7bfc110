"""Compiles a grammar's text to a matcher at its beginning."""

from __future__ import annotations

import json
from typing import Any

from llguidance import LLMatcher

from grammar.added_tokens import with_token_ids
from grammar.errors import GrammarInvalid, GrammarTooLarge
from grammar.limits import DEFAULT_LIMITS, GrammarLimits
from grammar.matcher import Matcher
from grammar.vocabulary import Vocabulary
from wire.sampling import Grammar, GrammarKind

JSON_SPACE = r"[\x20\x0A\x0D\x09]{1,24}"
"""White space between two parts of JSON, if there is any. Without a bound, some models write
nothing else until their tokens are used up."""

MAX_COMPLAINT_CHARS = 400
"""Limit of the compiler's error messages, which quote the grammar."""

_NAMES = {
    GrammarKind.JSON_SCHEMA: "JSON schema",
    GrammarKind.REGEX: "regular expression",
    GrammarKind.LARK: "grammar",
}


def compile_grammar(
    grammar: Grammar, vocabulary: Vocabulary, limits: GrammarLimits = DEFAULT_LIMITS
) -> Matcher:
    """Compile a grammar, in about a millisecond and without the GIL; see `GrammarLimits`.

    Raises GrammarInvalid and GrammarTooLarge.
    """
    check_bytes(grammar.text + grammar.calls, _NAMES[grammar.kind], limits)
    definition = _definition(grammar, vocabulary)
    matcher = LLMatcher(vocabulary.tokenizer, definition, log_level=0, limits=limits.for_compiler())
    if matcher.is_error():
        raise _invalid(grammar, matcher.get_error())
    return Matcher(matcher, vocabulary)


def check_bytes(text: str, name: str, limits: GrammarLimits) -> None:
    """Raises GrammarTooLarge for a text of too many bytes, which the message calls `name`."""
    num_bytes = len(text.encode())
    if num_bytes > limits.max_bytes:
        raise GrammarTooLarge(
            f"the {name} has {num_bytes} bytes: at most {limits.max_bytes} are allowed"
        )


def _definition(grammar: Grammar, vocabulary: Vocabulary) -> str:
    """The definition that llguidance reads: preface, answer and tool calls.

    Nothing is forced: where only one text can follow, the library would allow its usual tokens
    alone, among which added tokens are not.
    """
    body = "(@answer | @calls)" if grammar.calls else "@answer"
    start = f"start: preface {body}" if grammar.preface else f"start: {body}"
    lines = [start, grammar.preface, '%llguidance {"no_forcing": true}']
    parts = [
        {"name": "main", "lark_grammar": "\n".join(lines)},
        {"name": "answer", **_answer(grammar, vocabulary)},
    ]
    if grammar.calls:
        parts.append({"name": "calls", "lark_grammar": grammar.calls})
    return json.dumps({"grammars": parts})


def _answer(grammar: Grammar, vocabulary: Vocabulary) -> dict[str, Any]:
    match grammar.kind:
        case GrammarKind.REGEX:
            return _only(LLMatcher.grammar_from_regex(grammar.text))
        case GrammarKind.LARK:
            return {"lark_grammar": with_token_ids(grammar.text, vocabulary.text_tokens)}
        case GrammarKind.JSON_SCHEMA:
            try:
                return _only(
                    LLMatcher.grammar_from_json_schema(
                        grammar.text, defaults={"whitespace_pattern": JSON_SPACE}
                    )
                )
            except ValueError as error:
                raise _invalid(grammar, str(error)) from error


def _only(definition: str) -> dict[str, Any]:
    """The only grammar of a definition."""
    (found,) = json.loads(definition)["grammars"]
    return {key: value for key, value in found.items() if value is not None and key != "name"}


def _invalid(grammar: Grammar, complaint: str) -> GrammarInvalid:
    short = complaint.strip()[:MAX_COMPLAINT_CHARS]
    return GrammarInvalid(f"the {_NAMES[grammar.kind]} cannot be enforced: {short}")

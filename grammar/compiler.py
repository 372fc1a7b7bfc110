"""From a grammar's text to a matcher that stands at its beginning."""

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
"""What may stand between two parts of JSON, if anything does. Without a bound, a model that likes
blanks writes nothing else until its tokens are used up."""

MAX_COMPLAINT_CHARS = 400
"""The compiler quotes the grammar, however long it is."""

_NAMES = {
    GrammarKind.JSON_SCHEMA: "JSON schema",
    GrammarKind.REGEX: "regular expression",
    GrammarKind.LARK: "grammar",
}


def compile_grammar(
    grammar: Grammar, vocabulary: Vocabulary, limits: GrammarLimits = DEFAULT_LIMITS
) -> Matcher:
    """Takes about a millisecond, without Python's lock; see `GrammarLimits` for the most.

    Raises GrammarInvalid and GrammarTooLarge.
    """
    check_bytes(grammar.text + grammar.calls, _NAMES[grammar.kind], limits)
    definition = _definition(grammar, vocabulary)
    matcher = LLMatcher(vocabulary.tokenizer, definition, log_level=0, limits=limits.for_compiler())
    if matcher.is_error():
        raise _invalid(grammar, matcher.get_error())
    return Matcher(matcher, vocabulary)


def check_bytes(text: str, name: str, limits: GrammarLimits) -> None:
    """Raises GrammarTooLarge that says what it is."""
    num_bytes = len(text.encode())
    if num_bytes > limits.max_bytes:
        raise GrammarTooLarge(
            f"the {name} has {num_bytes} bytes: at most {limits.max_bytes} are allowed"
        )


def _definition(grammar: Grammar, vocabulary: Vocabulary) -> str:
    """In the form that the library reads: what may come first, and the answer.

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
    """The grammar of a definition that has one."""
    (found,) = json.loads(definition)["grammars"]
    return {key: value for key, value in found.items() if value is not None and key != "name"}


def _invalid(grammar: Grammar, complaint: str) -> GrammarInvalid:
    short = complaint.strip()[:MAX_COMPLAINT_CHARS]
    return GrammarInvalid(f"the {_NAMES[grammar.kind]} cannot be enforced: {short}")

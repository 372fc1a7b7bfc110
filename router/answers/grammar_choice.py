"""The grammar of an answer: of a required tool call, or of the client's constraint."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from grammar import lark
from grammar.errors import GrammarInvalid
from grammar.json_schema.prepare import prepared_text
from router.answers.tool_calls.enforced import WriteMark
from router.answers.tool_calls.formats import ToolFormat
from router.requests.prompts import Constraint, ConstraintKind, ToolChoice, ToolMode
from router.requests.request import RequestDraft
from wire.sampling import Grammar, GrammarKind

ANY_OBJECT = '{"type": "object"}'


def must_call(choice: ToolChoice | None) -> bool:
    """Whether the answer must be a tool call."""
    return choice is not None and choice.mode in (ToolMode.REQUIRED, ToolMode.NAMED)


def call_grammar(draft: RequestDraft, format_: ToolFormat, write_mark: WriteMark) -> Grammar:
    """The grammar of an answer that is one call, or several. Raises GrammarInvalid."""
    choice = draft.tool_choice or ToolChoice(ToolMode.AUTO)
    assert format_.enforce is not None
    wanted = [tool for tool in draft.tools if choice.name in (None, tool["function"]["name"])]
    if not wanted:
        raise GrammarInvalid(f"there is no tool named {choice.name!r} to call")
    several = draft.parallel_tool_calls is not False and choice.mode is not ToolMode.NAMED
    return Grammar(GrammarKind.LARK, format_.enforce(wanted, write_mark, several=several))


def constraint_grammar(constraint: Constraint, special_tokens: Mapping[str, int]) -> Grammar:
    """The grammar of a constraint; translating a large one takes up to seconds. Raises
    GrammarInvalid."""
    match constraint.kind:
        case ConstraintKind.JSON_OBJECT:
            return Grammar(GrammarKind.JSON_SCHEMA, ANY_OBJECT)
        case ConstraintKind.JSON_SCHEMA:
            text = prepared_text(constraint.text, lenient=constraint.lenient)
            return Grammar(GrammarKind.JSON_SCHEMA, text)
        case ConstraintKind.REGEX:
            return Grammar(GrammarKind.REGEX, constraint.text)
        case ConstraintKind.CHOICE:
            return Grammar(GrammarKind.LARK, lark.one_of(_choices(constraint.text)))
        case ConstraintKind.GRAMMAR:
            return Grammar(GrammarKind.LARK, lark.from_any(constraint.text))
        case ConstraintKind.STRUCTURAL_TAG:
            return Grammar(
                GrammarKind.LARK, lark.from_structural_tag(constraint.text, special_tokens)
            )


def _choices(text: str) -> list[str]:
    try:
        choices = msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError as error:
        raise GrammarInvalid(f"the choices must be a list of texts: {error}") from error
    if not choices:
        raise GrammarInvalid("the list of choices is empty")
    return choices

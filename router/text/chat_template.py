"""A model's chat template: jinja in a sandbox, with the functions that templates rely on."""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import secrets
from collections.abc import Callable
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser

from router.errors import InvalidRequest, StartError
from router.requests.prompts import ChatMessage, ChatPrompt, ToolCall
from router.text.call_arguments import as_object, as_text
from router.text.sandbox import BoundedSandbox, OutOfBounds, render

ShowArguments = Callable[[str], Any]
"""From the JSON of a call's arguments to what a template is given of it."""

_NO_CONTENT = re.compile(r"content(['\"]\s*\])?\s+is\s+(not\s+)?none", re.IGNORECASE)
"""Some templates know messages that only call tools by that; others would write "None"."""

_FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a template can raise over messages that it was not written for."""


class GenerationBlock(jinja2.ext.Extension):
    """Some templates mark the assistant's text with {% generation %}; it changes nothing here."""

    tags = {"generation"}  # noqa: RUF012  # the type that jinja declares

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """Raises jinja2.TemplateSyntaxError when the source is no template."""

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        self._special_tokens = special_tokens
        self._knows_tools = "tools" in source
        self._knows_developers = "developer" in source
        self._asks_for_no_content = _NO_CONTENT.search(source) is not None
        self._template = _environment().from_string(source)

    def render(self, prompt: ChatPrompt) -> str:
        """The prompt up to the assistant's answer. Raises InvalidRequest with what the template
        says against these messages."""
        if prompt.tools and not self._knows_tools:
            raise InvalidRequest("the model's chat template shows no tools to the model", "tools")
        try:
            return self._either_way(prompt)
        except _FAILURES as error:
            raise InvalidRequest(
                f"the model's chat template refuses these messages: {error}", "messages"
            ) from error

    def _either_way(self, prompt: ChatPrompt) -> str:
        """With arguments of calls as objects; as text where the template can have them only so."""
        try:
            return self._continued(prompt, as_object)
        except OutOfBounds:
            raise
        except _FAILURES:
            if not any(message.tool_calls for message in prompt.messages):
                raise
            with contextlib.suppress(*_FAILURES):
                return self._continued(prompt, as_text)
            raise

    def _continued(self, prompt: ChatPrompt, arguments: ShowArguments) -> str:
        """Up to the end of the last message, if the answer continues that."""
        messages = [self._message(each, arguments) for each in prompt.messages]
        if not prompt.continue_final_message:
            return self._rendered(prompt, messages)
        mark = secrets.token_hex(16)
        messages[-1]["content"] = (messages[-1]["content"] or "") + mark
        before, found, _ = self._rendered(prompt, messages).rpartition(mark)
        if not found:
            raise InvalidRequest(
                "the model's chat template does not show the last message as it is: it cannot be "
                "continued",
                "continue_final_message",
            )
        return before

    def _rendered(self, prompt: ChatPrompt, messages: list[dict[str, Any]]) -> str:
        """What a template hears from us no request can say differently."""
        given = {
            "messages": messages,
            "tools": list(prompt.tools) or None,
            "documents": prompt.template_args.get("documents"),
            "add_generation_prompt": prompt.add_generation_prompt,
        }
        return render(self._template, {**self._special_tokens, **prompt.template_args, **given})

    def _message(self, message: ChatMessage, arguments: ShowArguments) -> dict[str, Any]:
        """As templates expect it; what is absent is left out."""
        renamed = message.role == "developer" and not self._knows_developers
        said: dict[str, Any] = {
            "role": "system" if renamed else message.role,
            "content": message.content,
        }
        optional = {
            "name": message.name,
            "tool_call_id": message.tool_call_id,
            "reasoning_content": message.reasoning,
        }
        said |= {name: value for name, value in optional.items() if value is not None}
        if message.tool_calls:
            said["tool_calls"] = [_tool_call(call, arguments) for call in message.tool_calls]
            if not message.content and self._asks_for_no_content:
                said["content"] = None
        return said


def model_template(source: str, special_tokens: dict[str, str]) -> ChatTemplate:
    """Raises StartError when the model's own template is broken."""
    try:
        return ChatTemplate(source, special_tokens)
    except jinja2.TemplateSyntaxError as error:
        raise StartError(
            f"the model's chat template is broken at line {error.lineno}: {error}: "
            "correct chat_template.jinja or tokenizer_config.json"
        ) from error


def request_template(source: str, special_tokens: dict[str, str]) -> ChatTemplate:
    """Raises InvalidRequest when a request's template is broken."""
    try:
        return ChatTemplate(source, special_tokens)
    except jinja2.TemplateSyntaxError as error:
        text = f"the chat template is broken at line {error.lineno}: {error}"
        raise InvalidRequest(text, "chat_template") from error


def _tool_call(call: ToolCall, arguments: ShowArguments) -> dict[str, Any]:
    """In the order in which the client sent it. Raises InvalidRequest."""
    try:
        shown = arguments(call.arguments)
    except RecursionError as error:
        text = f"the arguments of {call.name!r} are nested too deeply"
        raise InvalidRequest(text, "messages") from error
    place = {key: index for index, key in enumerate(call.keys)}

    def ordered(**members: Any) -> dict[str, Any]:
        return {key: members[key] for key in sorted(members, key=place.__getitem__)}

    function = ordered(name=call.name, arguments=shown)
    named = {"id": call.id} if call.id else {}
    return ordered(type="function", function=function, **named)


def _environment() -> jinja2.Environment:
    environment = BoundedSandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[GenerationBlock, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: jinja's own filter escapes for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)

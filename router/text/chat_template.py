"""Chat templates: jinja in a sandbox, with the functions that models' templates use."""

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
"""Converts the JSON text of a call's arguments to the value that the template gets."""

_NO_CONTENT = re.compile(r"content(['\"]\s*\])?\s+is\s+(not\s+)?none", re.IGNORECASE)
"""Pattern of templates that expect no content in messages with tool calls; others would print
"None"."""

_FAILURES = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""Errors that a template may raise for messages it does not support."""


class GenerationBlock(jinja2.ext.Extension):
    """Accepts {% generation %}, which marks the assistant's text for training, and ignores it."""

    tags = {"generation"}  # noqa: RUF012  # the type that jinja declares

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A chat template. Raises jinja2.TemplateSyntaxError if the source is invalid."""

    def __init__(self, source: str, special_tokens: dict[str, str]) -> None:
        self._special_tokens = special_tokens
        self._knows_tools = "tools" in source
        self._knows_developers = "developer" in source
        self._asks_for_no_content = _NO_CONTENT.search(source) is not None
        self._template = _environment().from_string(source)

    def render(self, prompt: ChatPrompt) -> str:
        """The prompt up to the assistant's answer. Raises InvalidRequest with the template's
        error."""
        if prompt.tools and not self._knows_tools:
            raise InvalidRequest("the model's chat template does not support tools", "tools")
        try:
            return self._render_with_fallback(prompt)
        except _FAILURES as error:
            raise InvalidRequest(
                f"the model's chat template rejects these messages: {error}", "messages"
            ) from error

    def _render_with_fallback(self, prompt: ChatPrompt) -> str:
        """Render with call arguments as objects, or as text if the template fails on objects."""
        try:
            return self._render_messages(prompt, as_object)
        except OutOfBounds:
            raise
        except _FAILURES:
            if not any(message.tool_calls for message in prompt.messages):
                raise
            with contextlib.suppress(*_FAILURES):
                return self._render_messages(prompt, as_text)
            raise

    def _render_messages(self, prompt: ChatPrompt, arguments: ShowArguments) -> str:
        """Render, and cut behind the last message's content if the answer continues it."""
        messages = [self._message(each, arguments) for each in prompt.messages]
        if not prompt.continue_final_message:
            return self._render_template(prompt, messages)
        mark = secrets.token_hex(16)
        messages[-1]["content"] = (messages[-1]["content"] or "") + mark
        before, found, _ = self._render_template(prompt, messages).rpartition(mark)
        if not found:
            raise InvalidRequest(
                "the model's chat template changes the last message: it cannot be continued",
                "continue_final_message",
            )
        return before

    def _render_template(self, prompt: ChatPrompt, messages: list[dict[str, Any]]) -> str:
        """Render the template; a request's own arguments cannot override ours."""
        given = {
            "messages": messages,
            "tools": list(prompt.tools) or None,
            "documents": prompt.template_args.get("documents"),
            "add_generation_prompt": prompt.add_generation_prompt,
        }
        return render(self._template, {**self._special_tokens, **prompt.template_args, **given})

    def _message(self, message: ChatMessage, arguments: ShowArguments) -> dict[str, Any]:
        """The message as a dict for templates; absent members are omitted."""
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
    """The model's own template. Raises StartError if it is invalid."""
    try:
        return ChatTemplate(source, special_tokens)
    except jinja2.TemplateSyntaxError as error:
        raise StartError(
            f"the model's chat template is broken at line {error.lineno}: {error}: "
            "correct chat_template.jinja or tokenizer_config.json"
        ) from error


def request_template(source: str, special_tokens: dict[str, str]) -> ChatTemplate:
    """A request's template. Raises InvalidRequest if it is invalid."""
    try:
        return ChatTemplate(source, special_tokens)
    except jinja2.TemplateSyntaxError as error:
        text = f"the chat template is broken at line {error.lineno}: {error}"
        raise InvalidRequest(text, "chat_template") from error


def _tool_call(call: ToolCall, arguments: ShowArguments) -> dict[str, Any]:
    """The call with its members in the client's order. Raises InvalidRequest."""
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
    """Plain JSON, since jinja's own filter escapes for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)

"""From the public protobuf messages to the router's drafts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from router.errors import InvalidRequest
from router.intake.draft_checks import split_asked
from router.intake.traits import ASKED_TRAITS, asked_traits
from router.openai.tool_choice import checked_tools
from router.requests.prompts import (
    ChatMessage,
    ChatPrompt,
    Constraint,
    ConstraintKind,
    Prompt,
    TextPrompt,
    TokenPrompt,
    ToolCall,
    ToolChoice,
    ToolMode,
)
from router.requests.request import RequestDraft
from router.requests.trace import draw_request_id
from wire import inference_pb2 as pb

_OPTIONAL_FIELDS = (
    "model",
    "max_tokens",
    "min_tokens",
    "logprobs",
    "prompt_logprobs",
    "n",
    "skip_special_tokens",
    "truncate_prompt_tokens",
    "parallel_tool_calls",
)
_PLAIN_SAMPLING = frozenset(
    field.name
    for field in pb.Sampling.DESCRIPTOR.fields
    if field.name not in ("logit_bias", "allowed_tokens", "bad_words")
)
_MODES = {
    pb.TOOL_MODE_UNSPECIFIED: ToolMode.AUTO,
    pb.TOOL_MODE_NONE: ToolMode.NONE,
    pb.TOOL_MODE_AUTO: ToolMode.AUTO,
    pb.TOOL_MODE_REQUIRED: ToolMode.REQUIRED,
    pb.TOOL_MODE_NAMED: ToolMode.NAMED,
}


def draft_from(
    request: pb.GenerateRequest,
    timeout_s: float | None,
    trace_id: str | None = None,
    split: str | None = None,
) -> RequestDraft:
    """The draft of a request; absent fields stay None. Raises InvalidRequest."""
    choice = _tool_choice(request)
    prompt = prompt_from(request, shows_tools=choice is None or choice.mode is not ToolMode.NONE)
    allowed = request.sampling.HasField("allowed_tokens")
    # With explicit presence, listed fields are those that are present.
    given = _present(request.sampling, _PLAIN_SAMPLING) | _present(request, _OPTIONAL_FIELDS)
    slo = _present(request.slo, ("ttft_s", "tpot_s"))
    named = request.HasField("request_id")
    return RequestDraft(
        request_id=request.request_id if named else draw_request_id(trace_id),
        prompt=prompt,
        logit_bias=tuple(request.sampling.logit_bias.items()),
        allowed_token_ids=tuple(request.sampling.allowed_tokens.ids) if allowed else None,
        bad_words=tuple(request.sampling.bad_words),
        stop=tuple(request.stop),
        stop_token_ids=tuple(request.stop_token_ids),
        include_stop=request.include_stop,
        ignore_eos=request.ignore_eos,
        tells_prompt=request.HasField("prompt_logprobs") or request.echo,
        ttft_target_s=slo.get("ttft_s"),
        tpot_target_s=slo.get("tpot_s"),
        tools=_tools(request.chat.tools),
        tool_choice=choice,
        constraint=_constraint(request.constraint) if request.HasField("constraint") else None,
        timeout_s=timeout_s,
        trace_id=trace_id,
        traits=asked_traits(_present(request, ASKED_TRAITS)),
        has_priority=request.HasField("priority"),
        split=split_asked(split),
        **given,
    )


def prompt_from(
    request: pb.GenerateRequest | pb.TokenizeRequest, *, shows_tools: bool = True
) -> Prompt | None:
    """None when the oneof is not set. Raises InvalidRequest."""
    adds = request.add_special_tokens if request.HasField("add_special_tokens") else None
    match request.WhichOneof("prompt"):
        case "text":
            return TextPrompt(request.text, adds is not False)
        case "chat":
            return _chat(request.chat, bool(adds), shows_tools=shows_tools)
        case "token_ids":
            assert isinstance(request, pb.GenerateRequest)
            return TokenPrompt(tuple(request.token_ids.ids))
    return None


def _present(message: Any, names: frozenset[str] | tuple[str, ...]) -> dict[str, Any]:
    return {field.name: value for field, value in message.ListFields() if field.name in names}


def _chat(chat: pb.Chat, adds_special_tokens: bool, *, shows_tools: bool) -> ChatPrompt:
    continues = chat.continue_final_message
    asked = chat.HasField("add_generation_prompt")
    opens = chat.add_generation_prompt if asked else not continues
    if continues and opens:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt exclude each other",
            "continue_final_message",
        )
    return ChatPrompt(
        messages=tuple(map(_message, chat.messages)),
        tools=_tools(chat.tools) if shows_tools else (),
        add_generation_prompt=opens,
        continue_final_message=continues,
        template=chat.template if chat.HasField("template") else None,
        template_args=_json_object(chat.template_args_json, "template_args_json"),
        add_special_tokens=adds_special_tokens,
    )


def _message(message: pb.ChatMessage) -> ChatMessage:
    optional = _present(message, ("name", "tool_call_id", "reasoning"))
    calls = (ToolCall(call.id, call.name, call.arguments_json) for call in message.tool_calls)
    return ChatMessage(message.role, message.content, tool_calls=tuple(calls), **optional)


def _tools(tools: Any) -> tuple[dict[str, Any], ...]:
    return checked_tools([_tool(index, tool) for index, tool in enumerate(tools)])


def _tool(index: int, tool: pb.Tool) -> dict[str, Any]:
    """In OpenAI's shape, as templates show it."""
    function: dict[str, Any] = _present(tool, ("name", "description", "strict"))
    if tool.HasField("parameters_json"):
        field = f"tools[{index}].parameters_json"
        function["parameters"] = _json_object(tool.parameters_json, field)
    return {"type": "function", "function": function}


def _json_object(text: str, field: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any]) if text else {}
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise InvalidRequest(f"{field} is no JSON object: {error}", field) from error


def _tool_choice(request: pb.GenerateRequest) -> ToolChoice | None:
    if not request.HasField("tool_choice"):
        return None
    choice = request.tool_choice
    mode = _MODES.get(choice.mode)
    if mode is None or (mode is ToolMode.NAMED) != choice.HasField("name"):
        raise InvalidRequest(
            "tool_choice has a mode of ToolMode, and a name only with TOOL_MODE_NAMED",
            "tool_choice",
        )
    return ToolChoice(mode, choice.name if mode is ToolMode.NAMED else None)


def _constraint(wanted: pb.Constraint) -> Constraint | None:
    kind = wanted.WhichOneof("kind")
    if kind is None:
        raise InvalidRequest("constraint says nothing", "constraint")
    texts: Mapping[str, tuple[ConstraintKind, str]] = {
        "json_object": (ConstraintKind.JSON_OBJECT, ""),
        "json_schema": (ConstraintKind.JSON_SCHEMA, wanted.json_schema),
        "regex": (ConstraintKind.REGEX, wanted.regex),
        "choices": (ConstraintKind.CHOICE, msgspec.json.encode([*wanted.choices.texts]).decode()),
        "grammar": (ConstraintKind.GRAMMAR, wanted.grammar),
        "structural_tag": (ConstraintKind.STRUCTURAL_TAG, wanted.structural_tag),
    }
    if kind == "json_object" and not wanted.json_object:
        return None
    return Constraint(kind=texts[kind][0], text=texts[kind][1], field=f"constraint.{kind}")

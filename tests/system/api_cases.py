"""What is asked of the API in conformance tests: OpenAI's bodies, and the same said to gRPC."""

from __future__ import annotations

import json
from typing import Any

from wire import inference_pb2 as pb

Body = dict[str, Any]
Case = tuple[str, Body]

COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"
COMPLETION_MAX_TOKENS = 16
"""OpenAI's own default, which gRPC does not have."""
PROMPT = "def fibonacci(n):\n    if n < 2:\n        return n\n" * 4
MESSAGES = [
    {"role": "system", "content": "You write Python."},
    {"role": "user", "content": [{"type": "text", "text": "def add(a, b):"}]},
]
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|{{ m.role }}|>"
    "{{ m.content }}{% endfor %}<|assistant|>"
)
NO_TOOLS = "{% for m in messages %}{{ m.content }}{% endfor %}"
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"enum": [1, 2, 3]}, "b": {"type": "boolean"}},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["ada", "bob"]}, "old": {"type": "boolean"}},
    "required": ["name", "old"],
    "additionalProperties": False,
}
TOOLS = {"tools": [TOOL], "chat_template": TEMPLATE, "max_tokens": 80}
COMPLETIONS: list[Body] = [
    {"prompt": PROMPT, "temperature": 0},
    {"prompt": PROMPT, "seed": 3, "logprobs": 5, "return_token_ids": True},
    {"prompt": [PROMPT, "import os\n"], "seed": 4, "n": 2, "echo": True},
    {"prompt": [[5, 6, 7], [8, 9]], "seed": 5},
    {"prompt": PROMPT, "seed": 6, "stop": ["\n", "return"], "max_tokens": 60},
    {"prompt": PROMPT, "seed": 7, "stop": "(", "include_stop_str_in_output": True},
    {"prompt": PROMPT, "seed": 8, "top_k": 4, "top_p": 0.9, "min_p": 0.05, "n": 3},
    {"prompt": PROMPT, "seed": 9, "presence_penalty": 1, "frequency_penalty": 0.5, "n": 2},
    {"prompt": PROMPT, "seed": 10, "repetition_penalty": 1.3, "min_tokens": 12},
    {"prompt": PROMPT, "seed": 11, "logit_bias": {"40": 5, "41": -100}, "logprobs": 0},
    {"prompt": PROMPT, "seed": 12, "allowed_token_ids": [40, 41, 42, 43], "ignore_eos": True},
    {"prompt": PROMPT, "temperature": 0, "bad_words": ["return", "if"]},
    {"prompt": PROMPT, "seed": 13, "truncate_prompt_tokens": 7, "add_special_tokens": False},
    {"prompt": PROMPT, "seed": 14, "max_tokens": 1, "n": 3},
    {"prompt": PROMPT, "seed": 15, "ignore_eos": True, "skip_special_tokens": False},
    {"prompt": PROMPT, "seed": 16, "stream_interval": 7, "ignore_eos": True},
    {"prompt": PROMPT, "seed": 17, "regex": "[a-f]{5} [0-9]{3}", "n": 2},
    {"prompt": PROMPT * 8, "temperature": 0, "cache_salt": "mine", "priority": -1},
    {"prompt": PROMPT * 8, "temperature": 0, "cache_prompt": False, "n": 2},
    {"prompt": "x = ", "seed": 18, "stop_token_ids": list(range(20, 60)), "ignore_eos": True},
    {"prompt": "x = ", "seed": 19, "guided_grammar": 'root ::= "a" root | "b"', "n": 2},
]
CHATS: list[Body] = [
    {"temperature": 0, "max_tokens": 20},
    {"seed": 3, "logprobs": True, "top_logprobs": 3, "max_completion_tokens": 12},
    {"seed": 4, "n": 3, "stop": ["return"], "max_tokens": 40},
    {"seed": 5, "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}},
    {"seed": 6, "structured_outputs": {"choice": ["left", "right"]}, "n": 4},
    {"seed": 7, "tool_choice": "required", **TOOLS},
    {"seed": 8, "tool_choice": {"type": "function", "function": {"name": "add"}}, **TOOLS},
    {"seed": 9, "tool_choice": "none", **TOOLS, "max_tokens": 12},
    {"temperature": 0, "return_token_ids": True, "max_tokens": 9},
    {"seed": 10, "response_format": {"type": "json_object"}, "max_tokens": 60},
    {"seed": 11, **TOOLS, "max_tokens": 20},
]
CASES: list[Case] = [(COMPLETION, body) for body in COMPLETIONS] + [
    (CHAT, {"messages": MESSAGES, **body}) for body in CHATS
]
REFUSED: list[Case] = [
    (COMPLETION, {"prompt": PROMPT, "max_tokens": 0}),
    (COMPLETION, {"prompt": [""]}),
    (COMPLETION, {"prompt": PROMPT, "max_tokens": 10**6}),
    (CHAT, {"messages": MESSAGES, "tools": [TOOL], "chat_template": NO_TOOLS}),
    (CHAT, {"messages": MESSAGES, "structured_outputs": {"json": {"type": "no such type"}}}),
]
"""By either door."""
REFUSED_BY_HTTP: list[Case] = [
    (COMPLETION, {"prompt": ["a", ""]}),
    (CHAT, {"messages": MESSAGES, "top_logprobs": 3}),
]
"""What gRPC has no words for."""

_SAMPLING = (
    *("temperature", "top_p", "top_k", "min_p", "seed"),
    *("repetition_penalty", "presence_penalty", "frequency_penalty"),
)
_SAME = (
    *("min_tokens", "stop_token_ids", "ignore_eos", "cache_salt", "n", "skip_special_tokens"),
    *("add_special_tokens", "truncate_prompt_tokens", "priority", "echo", "stream_interval"),
    "cache_prompt",
)
_MODES = {
    "none": pb.TOOL_MODE_NONE,
    "auto": pb.TOOL_MODE_AUTO,
    "required": pb.TOOL_MODE_REQUIRED,
}
_TRANSLATED = {
    *("prompt", "messages", "tools", "chat_template", "tool_choice", "logprobs", "top_logprobs"),
    *("max_tokens", "max_completion_tokens", "stop", "include_stop_str_in_output"),
    *("logit_bias", "allowed_token_ids", "bad_words", "return_token_ids"),
    *("regex", "guided_grammar", "response_format", "structured_outputs"),
}


def as_grpc(case: Case) -> list[pb.GenerateRequest]:
    """The same request in gRPC's words: one for each prompt."""
    path, body = case
    unknown = body.keys() - {*_SAMPLING, *_SAME, *_TRANSLATED}
    assert not unknown, f"not translated: {unknown}"
    fields = {name: body[name] for name in _SAME if name in body}
    default = None if path == CHAT else COMPLETION_MAX_TOKENS
    fields["max_tokens"] = body.get("max_completion_tokens", body.get("max_tokens", default))
    stop = body.get("stop", [])
    common = pb.GenerateRequest(
        sampling=_sampling(body),
        stop=[stop] if isinstance(stop, str) else stop,
        include_stop=body.get("include_stop_str_in_output", False),
        logprobs=_logprobs(path, body),
        constraint=_constraint(body),
        tool_choice=_tool_choice(body.get("tool_choice")),
        return_prompt_token_ids=True,
        **fields,
    )
    return [_with_prompt(common, prompt) for prompt in _prompts(path, body)]


def _with_prompt(common: pb.GenerateRequest, prompt: pb.GenerateRequest) -> pb.GenerateRequest:
    request = pb.GenerateRequest()
    request.CopyFrom(common)
    request.MergeFrom(prompt)
    return request


def _prompts(path: str, body: Body) -> list[pb.GenerateRequest]:
    if path == CHAT:
        return [pb.GenerateRequest(chat=_chat(body))]
    prompts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
    return [
        pb.GenerateRequest(text=prompt)
        if isinstance(prompt, str)
        else pb.GenerateRequest(token_ids=pb.TokenIds(ids=prompt))
        for prompt in prompts
    ]


def _chat(body: Body) -> pb.Chat:
    messages = [
        pb.ChatMessage(role=message["role"], content=_text(message["content"]))
        for message in body["messages"]
    ]
    tools = [
        pb.Tool(
            name=tool["function"]["name"],
            parameters_json=json.dumps(tool["function"]["parameters"]),
        )
        for tool in body.get("tools", ())
    ]
    return pb.Chat(messages=messages, tools=tools, template=body.get("chat_template"))


def _text(content: str | list[dict[str, str]]) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def _sampling(body: Body) -> pb.Sampling:
    allowed = body.get("allowed_token_ids")
    return pb.Sampling(
        logit_bias={int(token): bias for token, bias in body.get("logit_bias", {}).items()},
        allowed_tokens=None if allowed is None else pb.TokenIds(ids=allowed),
        bad_words=body.get("bad_words", ()),
        **{name: body[name] for name in _SAMPLING if name in body},
    )


def _logprobs(path: str, body: Body) -> int | None:
    if path == CHAT:
        return body.get("top_logprobs", 0) if body.get("logprobs") else None
    return body.get("logprobs")


def _tool_choice(choice: str | dict[str, Any] | None) -> pb.ToolChoice | None:
    if choice is None:
        return None
    if isinstance(choice, str):
        return pb.ToolChoice(mode=_MODES[choice])
    return pb.ToolChoice(mode=pb.TOOL_MODE_NAMED, name=choice["function"]["name"])


def _constraint(body: Body) -> pb.Constraint | None:
    if "regex" in body:
        return pb.Constraint(regex=body["regex"])
    if "guided_grammar" in body:
        return pb.Constraint(grammar=body["guided_grammar"])
    form, outputs = body.get("response_format"), body.get("structured_outputs", {})
    if form is not None and form["type"] == "json_object":
        return pb.Constraint(json_object=True)
    if "choice" in outputs:
        return pb.Constraint(choices=pb.Choices(texts=outputs["choice"]))
    schema = outputs.get("json") if form is None else form["json_schema"]["schema"]
    return None if schema is None else pb.Constraint(json_schema=json.dumps(schema))

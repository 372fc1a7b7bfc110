"""Calls of tools in a history, as the templates of the model families read them."""

from __future__ import annotations

import json

import pytest

from router.errors import InvalidRequest
from router.openai.body_parsing import parse_body
from router.openai.prompt_parsing import chat_prompt
from router.openai.request_bodies import ChatBody
from router.requests.prompts import ChatMessage, ChatPrompt, ToolCall
from router.text.call_arguments import as_object
from router.text.chat_template import ChatTemplate

pytestmark = pytest.mark.quick
ARGUMENTS = '{"city": "Paris",  "days": 2}'
LOOP = "{% for m in messages %}{% for c in m.tool_calls or [] %}"
END = "{% endfor %}{% endfor %}"
QWEN = (
    LOOP
    + '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}'
    + END
)
QWEN_XML = (
    LOOP + "{% for k, v in c.function.arguments.items() %}<{{ k }}={{ v }}>{% endfor %}" + END
)
DISTILL = (
    "{% for m in messages %}{% if m['content'] is none %}{% for c in m['tool_calls'] %}"
    "{{ c['type'] + ':' + c['function']['name'] + '\\n' + c['function']['arguments'] }}" + END
).replace("{% endfor %}{% endfor %}", "{% endfor %}{% endif %}{% endfor %}")
TILDE = LOOP + "{{ 'call ' ~ c.function.arguments }}" + END
PLAIN = LOOP + "{{ c.function.arguments }}" + END
STRIPPED = LOOP + "{{ c.function.arguments.strip() }}" + END
STRING_OR_JSON = (
    LOOP + "{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}"
    "{{ c.function.arguments | tojson }}{% endif %}" + END
)


def shown(source: str, arguments: str) -> str:
    """What a template makes of a call in the history."""
    call = ToolCall("call-1", "f", arguments)
    prompt = ChatPrompt((ChatMessage("user", "a"), ChatMessage("assistant", tool_calls=(call,))))
    return ChatTemplate(source, {}).render(prompt)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (QWEN, '{"name": "f", "arguments": {"city": "Paris", "days": 2}}'),
        (QWEN_XML, "<city=Paris><days=2>"),
        (DISTILL, f"function:f\n{ARGUMENTS}"),
        (TILDE, f"call {ARGUMENTS}"),
        (PLAIN, ARGUMENTS),
        (STRIPPED, ARGUMENTS),
        (STRING_OR_JSON, '{"city": "Paris", "days": 2}'),
    ],
    ids=["qwen", "qwen xml", "distill", "tilde", "plain", "stripped", "string or json"],
)
def test_every_template_gets_arguments_as_it_wants_them(source: str, expected: str) -> None:
    assert shown(source, ARGUMENTS) == expected


@pytest.mark.parametrize(
    ("cut", "object_"),
    [
        ('{"city": "Par', {"city": "Par"}),
        ('{"city": "Paris", "da', {"city": "Paris"}),
        ('{"city": "Paris", "days":', {"city": "Paris"}),
        ('{"city": "Paris", "days": tr', {"city": "Paris"}),
        ('{"city": "Paris", "days": 1', {"city": "Paris", "days": 1}),
        ('{"a": {"b": ["x", {"c": "}]', {"a": {"b": ["x", {"c": "}]"}]}}),
        ('{"a": "\\u00', {"a": ""}),
        ('{"a": "\\\\', {"a": "\\"}),
        ('{"a": "\\', {"a": ""}),
        ("{", {}),
        ("", {}),
        ("null", {}),
        ("not JSON", {"arguments": "not JSON"}),
        ('{"a": 1}} and', {"a": 1}),
        ("[1, 2", [1, 2]),
    ],
)
def test_what_the_end_of_an_answer_has_cut_is_read_as_far_as_it_goes(
    cut: str, object_: object
) -> None:
    assert as_object(cut) == object_


@pytest.mark.parametrize("cut", [ARGUMENTS[:end] for end in range(len(ARGUMENTS))])
@pytest.mark.parametrize("source", [QWEN, QWEN_XML, DISTILL, TILDE, STRIPPED, STRING_OR_JSON])
def test_no_cut_arguments_keep_a_conversation_from_going_on(source: str, cut: str) -> None:
    assert "None" not in shown(source, cut)


def test_a_template_that_fails_both_ways_is_told_by_its_first_words() -> None:
    with pytest.raises(InvalidRequest, match="rejects these messages: no calls here"):
        shown(LOOP + "{{ raise_exception('no calls here') }}" + END, ARGUMENTS)


def test_a_message_that_only_calls_has_no_content_where_the_template_asks_for_that() -> None:
    call = ToolCall("1", "f", "{}")
    prompt = ChatPrompt((ChatMessage("assistant", tool_calls=(call,)),))
    for source, expected in (
        ("{{ messages[0].content }}", ""),
        ("{% if messages[0]['content'] is not none %}text{% else %}calls{% endif %}", "calls"),
    ):
        assert ChatTemplate(source, {}).render(prompt) == expected


def test_calls_and_tools_have_the_order_in_which_they_were_sent() -> None:
    calls = [
        {"id": "1", "function": {"arguments": '{"z": 1, "a": 2}', "name": "f"}, "type": "function"},
        {"function": {"name": "g", "arguments": "{}"}, "type": "function", "id": "2"},
        {"function": {"arguments": "{}", "name": "h"}},
    ]
    tools = [{"function": {"parameters": {"type": "object"}, "name": "f"}, "type": "function"}]
    body = {"messages": [{"role": "assistant", "tool_calls": calls}], "tools": tools}
    prompt = chat_prompt(parse_body(json.dumps(body).encode(), ChatBody), None)
    source = "{{ messages[0].tool_calls | tojson }}|{{ tools | tojson }}"
    text, told = ChatTemplate(source, {}).render(prompt).split("|")
    assert text == (
        '[{"id": "1", "function": {"arguments": {"z": 1, "a": 2}, "name": "f"}, '
        '"type": "function"},'
        ' {"function": {"name": "g", "arguments": {}}, "type": "function", "id": "2"},'
        ' {"function": {"arguments": {}, "name": "h"}, "type": "function"}]'
    )
    assert told == json.dumps(tools)


def test_documents_reach_the_template() -> None:
    documents = [{"title": "a", "text": "b"}]
    prompt = ChatPrompt((ChatMessage("user", "a"),), template_args={"documents": documents})
    assert ChatTemplate("{{ documents | tojson }}", {}).render(prompt) == json.dumps(documents)
    plain = ChatPrompt((ChatMessage("user", "a"),))
    assert ChatTemplate("{{ documents is none }}", {}).render(plain) == "True"

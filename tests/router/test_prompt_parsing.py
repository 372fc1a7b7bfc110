"""How long a prompt is decides where it is read."""

from __future__ import annotations

import pytest

from router.requests.prompts import ChatMessage, ChatPrompt, TextPrompt, ToolCall, num_chars

pytestmark = pytest.mark.quick

LONG = "a" * 10_000
MESSAGE = ChatMessage("user", "a")


@pytest.mark.parametrize(
    "prompt",
    [
        TextPrompt(LONG),
        ChatPrompt((ChatMessage("user", LONG),)),
        ChatPrompt((ChatMessage(LONG),)),
        ChatPrompt((ChatMessage("user", name=LONG),)),
        ChatPrompt((ChatMessage("assistant", reasoning=LONG),)),
        ChatPrompt((ChatMessage("assistant", tool_calls=(ToolCall(None, "f", LONG),)),)),
        ChatPrompt((MESSAGE,), tools=({"function": {"description": LONG}},)),
        ChatPrompt((MESSAGE,), template_args={"documents": LONG}),
        ChatPrompt((ChatMessage("user"),) * 1_000),
    ],
)
def test_all_that_a_template_can_show_makes_a_prompt_long(prompt: TextPrompt | ChatPrompt) -> None:
    assert num_chars(prompt) >= 10_000


def test_a_template_of_the_clients_own_is_longer_than_any_text() -> None:
    loop = "{% for a in range(99999) %}{% endfor %}"
    assert num_chars(ChatPrompt((MESSAGE,), template=loop)) > num_chars(TextPrompt(LONG * 1_000))


def test_a_short_chat_is_short() -> None:
    assert num_chars(ChatPrompt((MESSAGE,) * 10)) < 500

"""Tool calls and reasoning as OpenAI bodies, whole and in pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from router.openai.chat import ChatWriter
from router.openai.response_writer import ResponseOptions
from router.requests.request import Delta, Ending, Timing, ToolCallDelta, Usage
from router.text.model_card import read_model_card
from router.text.tokenizer import Tokenizer
from wire.messages import FinishReason

pytestmark = pytest.mark.quick

ENDING = Ending(
    finish=FinishReason.STOP,
    stop_text=None,
    stop_token=7,
    usage=Usage(prompt_tokens=3, completion_tokens=5, cached_tokens=0),
    timing=Timing(),
    prefill_worker_id="p",
    decode_worker_id="d",
    attempts=1,
    tool_calls=True,
)
DELTAS = [
    Delta(text="", reasoning="hm", tokens=(1,), prompt_tokens=(1, 2, 3)),
    Delta(text="", tokens=(2,), tool_calls=(ToolCallDelta(index=0, id="call-a", name="add"),)),
    Delta(text="", tokens=(3,), tool_calls=(ToolCallDelta(index=0, arguments='{"a":'),)),
    Delta(
        text="",
        tokens=(4,),
        tool_calls=(
            ToolCallDelta(index=0, arguments="1}"),
            ToolCallDelta(index=1, id="call-b", name="now", arguments="{}"),
        ),
    ),
    Delta(text="", tokens=(), ending=ENDING),
]


@pytest.fixture
def style(model_dir: Path) -> ChatWriter:
    tokenizer = Tokenizer(read_model_card(model_dir))
    return ChatWriter("r", "tiny", tokenizer, ResponseOptions(stop_token_ids=(7,)))


def streamed(style: ChatWriter, deltas: list[Delta]) -> list[Any]:
    events = b"".join(map(style.events, deltas)).split(b"\n\n")
    return [msgspec.json.decode(event.removeprefix(b"data: ")) for event in events if event]


def test_calls_are_streamed_name_first_and_arguments_in_pieces(style: ChatWriter) -> None:
    opening, *chunks = streamed(style, DELTAS)
    assert opening["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"reasoning_content": "hm"},
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "call-a",
                    "type": "function",
                    "function": {"name": "add", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]},
        {
            "tool_calls": [
                {"index": 0, "function": {"arguments": "1}"}},
                {
                    "index": 1,
                    "id": "call-b",
                    "type": "function",
                    "function": {"name": "now", "arguments": "{}"},
                },
            ]
        },
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-2:] == [None, "tool_calls"]
    assert chunks[-1]["choices"][0]["stop_reason"] == 7


def test_a_whole_message_has_its_calls_and_no_content(style: ChatWriter) -> None:
    body = msgspec.json.decode(msgspec.json.encode(style.whole_body(DELTAS)))
    (choice,) = body["choices"]
    message = choice["message"]
    assert message["content"] is None
    assert message["reasoning_content"] == "hm"
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "add", "arguments": '{"a":1}'},
        {"name": "now", "arguments": "{}"},
    ]
    assert [call["id"] for call in message["tool_calls"]] == ["call-a", "call-b"]
    assert choice["finish_reason"] == "tool_calls"


def test_an_answer_cut_off_amid_a_call_ends_for_its_length(style: ChatWriter) -> None:
    cut = msgspec.structs.replace(ENDING, finish=FinishReason.LENGTH)
    *_, last = streamed(style, [*DELTAS[:-1], Delta(text="", tokens=(), ending=cut)])
    assert last["choices"][0]["finish_reason"] == "length"


def test_text_of_any_kind_survives_the_short_way(style: ChatWriter) -> None:
    for text in ('"\\\n\u2028', "😀", "\x00\x1f</script>"):
        *_, chunk = streamed(style, [Delta(text=text, tokens=(1,))])
        assert chunk["choices"][0]["delta"]["content"] == text

"""What a model thinks before it answers, told apart from what it answers."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from router.answers.reasoning import (
    THINK,
    CallsInThoughts,
    ReasoningScanner,
    find_marks,
    reasoning_of,
)
from router.answers.structured import Structured
from router.answers.tool_calls.hermes import HermesScanner
from router.config import RouterConfig
from router.errors import StartError
from router.requests.prompts import ChatMessage, ChatPrompt
from router.requests.request import Reasoning
from router.text.model_card import read_model_card
from router.text.tokenizer import Tokenizer as RouterTokenizer
from tests.router.conftest import Stage, StartStage
from tests.router.test_generate import generate, ids
from tests.router.test_http import MESSAGES, openai_client
from tests.router.test_structured import ADD
from tests.router.tiny_model import one_model
from wire import inference_pb2 as pb
from wire.messages import Submit

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
THOUGHT = "<think>\nthe fox\n</think>\n\n two wheels"
OPENED = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}<|assistant|><think>\n"
CLOSED = OPENED + "\n</think>\n\n"
PREFACES = (
    (None, 'preface: (blanks "<think>" thinking blanks)?'),
    (OPENED, "preface: thinking blanks"),
    (CLOSED, ""),
)
CASES: list[tuple[str, bool, tuple[str, str]]] = [
    (THOUGHT, False, ("the fox", "two wheels")),
    (" \n<think>a <b> </c></think>d</think>", False, ("a <b> </c>", "d</think>")),
    ("the fox\n</think>\n\nyes", True, ("the fox", "yes")),
    ("never done </thin", True, ("never done </thin", "")),
    ("<think></think>x", False, ("", "x")),
    ("<think>\n\n</think>\n\n", False, ("", "")),
    (" no thought <think>x</think>", False, ("", " no thought <think>x</think>")),
    ("<thin", False, ("", "<thin")),
    ("  ", False, ("", "  ")),
    ("", True, ("", "")),
]


def heard(scanner: ReasoningScanner, pieces: list[str]) -> tuple[str, str]:
    thought = answer = ""
    for index, piece in enumerate(pieces):
        parsed = scanner.push(piece, done=index == len(pieces) - 1)
        thought, answer = thought + parsed.reasoning, answer + parsed.text
    return thought, answer


@pytest.mark.parametrize(("text", "begun", "parts"), CASES)
def test_a_thought_comes_first_or_not_at_all(
    text: str, begun: bool, parts: tuple[str, str]
) -> None:
    assert heard(ReasoningScanner(None, begun=begun), [text]) == parts
    assert heard(ReasoningScanner(None, begun=begun), [*text, ""]) == parts


@given(st.text("<think>/ \nx", max_size=40), st.booleans(), st.data())
def test_it_does_not_matter_how_the_text_is_cut(text: str, begun: bool, data: Any) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    edges = [0, *cuts, len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    whole = heard(ReasoningScanner(None, begun=begun), [text])
    assert heard(ReasoningScanner(None, begun=begun), pieces) == whole


def test_calls_of_tools_come_behind_the_thought() -> None:
    scanner = ReasoningScanner(HermesScanner(), begun=False, calls=CALLS)
    parsed = scanner.push(f"<think>should I? {CALL}</think>\nyes {CALL}", done=True)
    assert parsed.reasoning == f"should I? {CALL}"
    assert parsed.text == "yes"
    assert [call.name for call in parsed.tool_calls] == ["add"]


CALLS = CallsInThoughts("<tool_call>", HermesScanner)
OTHER = CALL.replace('"add"', '"other"')
UNCLOSED: list[tuple[str, tuple[str, str, list[str]]]] = [
    (f"I look.\n{CALL}", ("I look.", "", ["add"])),
    (f"I look. {CALL}\n{OTHER}\n", ("I look.", "", ["add", "other"])),
    (f"I look. {CALL}</think> so", (f"I look. {CALL}", "so", [])),
    (f"a <tool_call> of nature {CALL}", ("a <tool_call> of nature", "", ["add"])),
    ("a <tool_call> of nature </think>yes", ("a <tool_call> of nature", "yes", [])),
    ("a <tool_call>", ("a <tool_call>", "", [])),
    ('a <tool_call>{"na', ('a <tool_call>{"na', "", [])),
    (f"I look.</think> {CALL}", ("I look.", "", ["add"])),
]


def told(pieces: list[str]) -> tuple[str, str, list[str]]:
    """Thought, answer and names of calls, of an answer that the prompt has opened as a thought."""
    scanner = ReasoningScanner(HermesScanner(), begun=True, calls=CALLS)
    thought, answer, names = "", "", list[str]()
    for index, piece in enumerate(pieces):
        parsed = scanner.push(piece, done=index == len(pieces) - 1)
        thought, answer = thought + parsed.reasoning, answer + parsed.text
        names += [call.name for call in parsed.tool_calls if call.name]
    return thought, answer, names


@pytest.mark.parametrize(("text", "parts"), UNCLOSED)
def test_calls_in_a_thought_that_is_never_closed_are_made(
    text: str, parts: tuple[str, str, list[str]]
) -> None:
    assert told([text]) == parts
    assert told([*text, ""]) == parts


@given(st.data())
def test_calls_in_thoughts_do_not_depend_on_how_the_text_is_cut(data: Any) -> None:
    bits = st.sampled_from(
        ["<tool_call>", "</tool_call>", "</think>", CALL, CALL[:30], " ", "{", "so"]
    )
    text = "".join(data.draw(st.lists(bits, max_size=6)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    edges = [0, *cuts, len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(edges)]
    assert told(pieces) == told([text])


def test_a_thought_that_speaks_of_calls_is_told_as_it_comes() -> None:
    scanner = ReasoningScanner(HermesScanner(), begun=True, calls=CALLS)
    assert scanner.push("use <tool_call> tags", done=False).reasoning == "use <tool_call> tags"


def test_whether_a_model_thinks_is_seen_in_its_template() -> None:
    assert find_marks("auto", "… split('</think>') …") == THINK
    assert find_marks("auto", "{{ messages }}") is None
    assert find_marks("think", "{{ messages }}") == THINK
    assert find_marks("none", "</think>") is None


@pytest.mark.parametrize(
    ("said", "reasoning"),
    [
        ("<think>so", Reasoning.BEGUN),
        ("<think>so</think>\nThe answer", Reasoning.CLOSED),
        ("The answer", Reasoning.POSSIBLE),
    ],
)
def test_a_message_that_is_continued_says_whether_it_thinks(
    said: str, reasoning: Reasoning
) -> None:
    messages = (ChatMessage("user", "a"), ChatMessage("assistant", said))
    prompt = ChatPrompt(messages, add_generation_prompt=False, continue_final_message=True)
    assert reasoning_of(prompt, said) is reasoning


def test_mistrals_thoughts_have_marks_of_their_own() -> None:
    marks = find_marks("auto", "[THINK]…[/THINK]")
    assert marks == find_marks("mistral", "")
    assert marks is not None
    scanner = ReasoningScanner(None, begun=False, marks=marks)
    assert heard(scanner, ["[THI", "NK]the fox <think>[/THINK]", "\n\nyes"]) == (
        "the fox <think>",
        "yes",
    )
    chat = ChatPrompt((ChatMessage("user", "a"),))
    assert reasoning_of(chat, "[/INST][THINK]", marks) is Reasoning.BEGUN


def test_what_is_no_chat_has_no_thoughts() -> None:
    assert reasoning_of(None, "<think>") is Reasoning.NONE


def test_a_wrong_setting_is_said_at_the_start(model_dir: Any) -> None:
    card = read_model_card(model_dir)
    config = RouterConfig(models=one_model(model_dir), reasoning_parser="what")
    with pytest.raises(StartError, match="reasoning_parser is 'what'"):
        Structured(config, card, RouterTokenizer(card))


async def test_a_chat_tells_the_thought_apart(start_stage: StartStage, backend: Tokenizer) -> None:
    stage = await start_stage(reasoning_parser="think")
    await stage.add_pair(ids(backend, THOUGHT))
    async with openai_client(stage) as client:
        asked: dict[str, Any] = {"model": "tiny", "messages": MESSAGES}
        answer = await client.chat.completions.create(**asked)
        stream = await client.chat.completions.create(**asked, stream=True)
        deltas = [chunk.choices[0].delta async for chunk in stream]
    message = answer.choices[0].message
    assert message.content == "two wheels"
    assert message.model_extra == {"reasoning_content": "the fox"}
    assert "".join(delta.content or "" for delta in deltas) == "two wheels"
    extras = [(delta.model_extra or {}).get("reasoning_content") or "" for delta in deltas]
    assert "".join(extras) == "the fox"


async def test_a_template_may_open_the_thought(start_stage: StartStage, backend: Tokenizer) -> None:
    stage = await start_stage(reasoning_parser="think", trust_request_templates=True)
    await stage.add_pair(ids(backend, "the fox"))
    async with openai_client(stage) as client:
        answer = await client.chat.completions.create(
            model="tiny", messages=MESSAGES, extra_body={"chat_template": OPENED}
        )
    message = answer.choices[0].message
    assert message.content is None
    assert message.model_extra == {"reasoning_content": "the fox"}


async def test_grpc_tells_it_in_a_field_of_its_own(
    start_stage: StartStage, backend: Tokenizer
) -> None:
    stage = await start_stage(reasoning_parser="think")
    await stage.add_pair(ids(backend, THOUGHT))
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="a")])
    responses = await generate(stage, text=None, chat=chat, max_tokens=60)
    assert "".join(each.reasoning for each in responses) == "the fox"
    assert "".join(each.text for each in responses) == "two wheels"
    plain = await generate(stage, text="a", max_tokens=60)
    assert "".join(each.text for each in plain) == THOUGHT


async def test_an_answer_that_follows_a_grammar_may_think_first(
    start_stage: StartStage, backend: Tokenizer
) -> None:
    stage = await start_stage(reasoning_parser="think", trust_request_templates=True)
    prefill, _ = await stage.add_pair(ids(backend, THOUGHT))
    async with openai_client(stage) as client:
        for nth, (template, begins) in enumerate(PREFACES):
            body = {"structured_outputs": {"regex": ".*"}, "chat_template": template}
            answer = await client.chat.completions.create(
                model="tiny", messages=MESSAGES, extra_body=body
            )
            grammar = (await prefill.hears(Submit, nth + 1)).sampling.grammar
            assert grammar is not None
            assert grammar.preface.partition("\n")[0] == begins
            assert answer.choices[0].message.content == "two wheels"
        completion = await client.completions.create(
            model="tiny", prompt="a", max_tokens=60, extra_body={"regex": ".*"}
        )
        grammar = (await prefill.hears(Submit, len(PREFACES) + 1)).sampling.grammar
        assert grammar is not None
        assert grammar.preface == ""
    assert completion.choices[0].text == THOUGHT


async def test_a_forced_call_may_think_first(start_stage: StartStage, backend: Tokenizer) -> None:
    stage = await start_stage(reasoning_parser="think", tool_parser="hermes")
    prefill, _ = await stage.add_pair(ids(backend, f"<think>the fox</think>\n{CALL}"))
    async with openai_client(stage) as client:
        answer = await client.chat.completions.create(
            model="tiny", messages=MESSAGES, tools=ADD, tool_choice="required", max_tokens=90
        )
    submit = await prefill.hears(Submit)
    assert submit.sampling.grammar is not None
    assert "preface:" in submit.sampling.grammar.preface
    message = answer.choices[0].message
    assert (message.model_extra or {})["reasoning_content"] == "the fox"
    assert [call.function.name for call in message.tool_calls or ()] == ["add"]  # type: ignore[union-attr]
    assert answer.choices[0].finish_reason == "tool_calls"


async def test_where_the_template_shows_none_all_is_answer(
    stage: Stage, backend: Tokenizer
) -> None:
    await stage.add_pair(ids(backend, THOUGHT))
    async with openai_client(stage) as client:
        answer = await client.chat.completions.create(model="tiny", messages=MESSAGES, tools=ADD)
    assert answer.choices[0].message.content == THOUGHT

"""Calls of tools, told from text: whole, and in whatever pieces it comes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grammar.compiler import compile_grammar
from grammar.vocabulary import Vocabulary, read_vocabulary
from router.errors import StartError
from router.tool_calls.formats import FORMATS, ToolFormat, find_format
from router.tool_calls.hermes import HermesScanner
from router.tool_calls.llama3 import Llama3Scanner
from router.tool_calls.mistral import MistralScanner, draw_mistral_id
from router.tool_calls.pythonic import PythonicScanner
from router.tool_calls.scanner import CallScanner, draw_call_id
from wire.sampling import Grammar, GrammarKind

KNOWN = frozenset({"get_weather", "add"})
Heard = tuple[str, list[tuple[str, str]]]
"""Text, and calls: names and arguments."""

SCANNERS: dict[str, Callable[[], CallScanner]] = {
    "hermes": HermesScanner,
    "llama3_json": lambda: Llama3Scanner(KNOWN),
    "mistral": MistralScanner,
    "pythonic": lambda: PythonicScanner(KNOWN),
}

WEATHER = ("get_weather", '{"city": "Paris }]", "days": [1, 2]}')
CASES: list[tuple[str, str, Heard]] = [
    ("hermes", "No call here. ", ("No call here. ", [])),
    (
        "hermes",
        'Let me look.\n<tool_call>\n{"name": "get_weather", "arguments": '
        '{"city": "Paris }]", "days": [1, 2]}}\n</tool_call>',
        ("Let me look.", [WEATHER]),
    ),
    (
        "hermes",
        '<tool_call>{"arguments": {"a": 1}, "name": "add"}</tool_call>\n'
        '<tool_call>{"name": "add"}</tool_call> Done.',
        ("Done.", [("add", '{"a": 1}'), ("add", "{}")]),
    ),
    (
        "hermes",
        '<tool_call>{"name": "add", "arguments": "{\\"a\\": \\"\\u00e9\\"}"}',
        ("", [("add", '{"a": "é"}')]),
    ),
    ("hermes", "a  <tool_call> of nature", ("a  <tool_call> of nature", [])),
    ("hermes", 'x <tool_call>{"na', ('x <tool_call>{"na', [])),
    ("hermes", '<tool_call>{"arguments": {"a": 1}}', ('<tool_call>{"arguments": {"a": 1}}', [])),
    ("hermes", "1 <tool_cal", ("1 <tool_cal", [])),
    ("hermes", '<tool_call>{"name": "add", "arguments": {"a": 1', ("", [("add", '{"a": 1')])),
    (
        "llama3_json",
        ' {"name": "get_weather", "parameters": {"city": "Paris }]", "days": [1, 2]}}',
        ("", [WEATHER]),
    ),
    (
        "llama3_json",
        '{"name": "add", "parameters": {}}; {"type": "function", "function": "add", '
        '"parameters": {"a": 2}}',
        ("", [("add", "{}"), ("add", '{"a": 2}')]),
    ),
    (
        "llama3_json",
        'Sure. <|python_tag|>{"name": "add", "parameters": {"a": 1}}',
        ("Sure.", [("add", '{"a": 1}')]),
    ),
    ("llama3_json", '  {"name": "Bob", "age": 3} ', ('  {"name": "Bob", "age": 3} ', [])),
    ("llama3_json", '{"name": "add"}; and', ("; and", [("add", "{}")])),
    ("llama3_json", "{not JSON", ("{not JSON", [])),
    (
        "mistral",
        '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}, {"name": "add", "arguments": {}}]',
        ("", [("add", '{"a": 1}'), ("add", "{}")]),
    ),
    (
        "mistral",
        'Hm. [TOOL_CALLS]get_weather[ARGS]{"city": "Paris }]", "days": [1, 2]}'
        "[TOOL_CALLS]add[CALL_ID]abcdefghi[ARGS]{}",
        ("Hm.", [WEATHER, ("add", "{}")]),
    ),
    ("mistral", "[TOOL_CALLS] what {", ("", [("what", "{")])),
    ("mistral", "[TOOL_CALLS] of the {wild}", ("[TOOL_CALLS] of the {wild}", [])),
    ("mistral", "[TOOL_CALLS]", ("[TOOL_CALLS]", [])),
    ("mistral", "[TOOL_CALLS]" + "x" * 200, ("[TOOL_CALLS]" + "x" * 200, [])),
    (
        "pythonic",
        '[get_weather(city="Paris }]", days=[1, 2]), add()]\nDone.',
        ("Done.", [WEATHER, ("add", "{}")]),
    ),
    ("pythonic", " [1, 2] is a list", (" [1, 2] is a list", [])),
    ("pythonic", "[add(1)]", ("[add(1)]", [])),
    ("pythonic", '[add(a="', ('[add(a="', [])),
    ("pythonic", "No [add()]", ("No [add()]", [])),
]
NAMES = [f"{format_}-{number}" for number, (format_, _, _) in enumerate(CASES)]


def heard(scanner: CallScanner, pieces: Sequence[str]) -> Heard:
    """What a client puts together. Each call's id and name come first, and once."""
    text, calls = "", list[tuple[str, str]]()
    for index, piece in enumerate(pieces):
        parsed = scanner.push(piece, done=index == len(pieces) - 1)
        text += parsed.text
        for delta in parsed.tool_calls:
            if delta.name is not None:
                assert delta.id
                assert delta.index == len(calls)
                calls.append((delta.name, ""))
            assert delta.index == len(calls) - 1
            name, arguments = calls[delta.index]
            calls[delta.index] = (name, arguments + delta.arguments)
    return text, calls


@pytest.mark.parametrize(("format_", "answer", "expected"), CASES, ids=NAMES)
def test_the_whole_answer_is_told_apart(format_: str, answer: str, expected: Heard) -> None:
    assert heard(SCANNERS[format_](), [answer]) == expected


@pytest.mark.parametrize(("format_", "answer", "expected"), CASES, ids=NAMES)
def test_it_is_the_same_character_by_character(format_: str, answer: str, expected: Heard) -> None:
    assert heard(SCANNERS[format_](), [*answer, ""]) == expected


@pytest.mark.parametrize("format_", SCANNERS)
@given(data=st.data())
def test_no_cutting_changes_what_is_told(format_: str, data: st.DataObject) -> None:
    """Also of texts that go wrong in every way: pieces of calls, repeated, cut and mixed."""
    bits = [answer for name, answer, _ in CASES if name == format_]
    marks = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", '{"name"']
    strategy = st.sampled_from(bits + marks) | st.text('{}[]",:;\\ \nadn=()<t', max_size=6)
    whole = "".join(data.draw(st.lists(strategy, max_size=5)))
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=8).map(sorted))
    pieces = [whole[a:b] for a, b in itertools.pairwise([0, *cuts, len(whole)])]
    assert heard(SCANNERS[format_](), pieces) == heard(SCANNERS[format_](), [whole])


def test_arguments_are_told_while_they_are_written() -> None:
    scanner = HermesScanner()
    scanner.push('<tool_call>{"name": "add", "arguments": {"text": "', done=False)
    told = [scanner.push(word, done=False).tool_calls for word in ("one ", "two ", "three ")]
    assert [call.arguments for calls in told for call in calls] == ["one ", "two ", "three "]


def test_text_is_told_at_once_but_for_what_may_begin_a_mark() -> None:
    scanner = HermesScanner()
    assert scanner.push("Hello <tool", done=False).text == "Hello"
    assert scanner.push("s> and", done=False).text == " <tools> and"


def test_ids_are_as_each_family_expects_them() -> None:
    assert draw_call_id().startswith("call_")
    assert draw_call_id() != draw_call_id()
    assert len(draw_mistral_id()) == 9
    assert draw_mistral_id().isalnum()


TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"$ref": "#/$defs/City"},
                    "days": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
                },
                "required": ["city"],
                "additionalProperties": False,
                "$defs": {"City": {"type": "string", "maxLength": 8}},
            },
        },
    },
    {"type": "function", "function": {"name": "add", "parameters": {"properties": {}}}},
]
ENFORCED = [each for each in FORMATS.values() if each.enforce is not None]
EOS = 1


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return read_vocabulary(Path("models/tiny-python/tokenizer.json"), 2048, [EOS])


def random_answer(lark: str, vocabulary: Vocabulary, seed: int) -> str | None:
    """What a model of noise writes under the grammar; None when it finds no end."""
    matcher = compile_grammar(Grammar(GrammarKind.LARK, lark), vocabulary)
    draws, tokens = np.random.default_rng(seed), list[int]()
    while len(tokens) < 300:
        token = int(draws.choice(matcher.allowed().members()))
        if token == EOS:
            return vocabulary.tokenizer.decode_str(tokens)
        matcher.consume([token])
        tokens.append(token)
    return None


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("format_", ENFORCED, ids=lambda each: each.name)
def test_calls_that_must_be_made_are_made(
    vocabulary: Vocabulary, format_: ToolFormat, several: bool
) -> None:
    assert format_.enforce is not None
    lark = format_.enforce(TOOLS[:1], json.dumps, several=several)
    answers = [random_answer(lark, vocabulary, seed) for seed in range(6)]
    finished = [answer for answer in answers if answer is not None]
    assert finished
    for answer in finished:
        text, calls = heard(format_.scan(KNOWN), [answer])
        assert text == ""
        assert len(calls) >= 1
        assert several or len(calls) == 1
        for name, arguments in calls:
            assert name == "get_weather"
            assert len(json.loads(arguments)["city"]) <= 8


def test_a_mark_that_is_a_special_token_is_written_as_one(vocabulary: Vocabulary) -> None:
    lark = FORMATS["mistral_named"].enforce
    assert lark is not None
    text = lark(TOOLS, lambda mark: "<[4]>" if mark == "[TOOL_CALLS]" else "<[3]>", several=False)
    matcher = compile_grammar(Grammar(GrammarKind.LARK, text), vocabulary)
    assert matcher.allowed().members().tolist() == [4]


def test_strict_tools_are_enforced_to_the_letter_and_others_as_far_as_can_be() -> None:
    function = {"name": "f", "parameters": {"type": "array", "uniqueItems": True}}
    for strict in (False, True):
        tool = {"type": "function", "function": {**function, "strict": strict}}
        enforce = FORMATS["llama3_json"].enforce
        assert enforce is not None
        assert f'"lenient": {json.dumps(not strict)}' in enforce([tool], json.dumps, several=True)


@pytest.mark.parametrize(
    ("name", "template", "tokens", "expected"),
    [
        ("auto", "... <tool_call> ...", set(), "hermes"),
        ("auto", "{{ '[TOOL_CALLS]' }}", set(), "mistral_list"),
        ("auto", None, {"[TOOL_CALLS]", "[ARGS]"}, "mistral_named"),
        ("auto", "<|python_tag|>", set(), "llama3_json"),
        ("auto", None, set(), "llama3_json"),
        ("mistral", None, {"[ARGS]"}, "mistral_named"),
        ("pythonic", "<tool_call>", set(), "pythonic"),
    ],
)
def test_the_format_is_the_configured_one_or_the_templates(
    name: str, template: str | None, tokens: set[str], expected: str
) -> None:
    assert find_format(name, template, tokens.__contains__).name == expected


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(StartError, match="'hermess': it must be one of auto, mistral, hermes"):
        find_format("hermess", None, lambda mark: False)


@pytest.mark.parametrize("kind", SCANNERS)
def test_a_name_nested_too_deeply_is_no_call(kind: str) -> None:
    openings = {"hermes": "<tool_call>", "mistral": "[TOOL_CALLS]"}
    deep = "[" * 5_000 + "]" * 5_000
    heard = SCANNERS[kind]().push(openings.get(kind, "") + '{"name": ' + deep + "}", done=True)
    assert heard.tool_calls == ()
    assert deep in heard.text

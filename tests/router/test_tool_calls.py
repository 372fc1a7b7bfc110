"""Calls of tools, told from text: whole, and in whatever pieces it comes."""

from __future__ import annotations

import contextlib
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
from grammar.errors import GrammarInvalid
from grammar.thought import thought
from grammar.vocabulary import Vocabulary, read_vocabulary
from router.answers.tool_calls.deepseek import (
    CALL_BEGIN,
    CALL_END,
    LIST_BEGIN,
    LIST_END,
    SEPARATOR,
    DeepSeekScanner,
)
from router.answers.tool_calls.deepseek import MARKS as DEEPSEEK_MARKS
from router.answers.tool_calls.first_call import FirstCallOnly
from router.answers.tool_calls.formats import FORMATS, ToolFormat, find_format
from router.answers.tool_calls.hermes import HermesScanner
from router.answers.tool_calls.llama3 import Llama3Scanner
from router.answers.tool_calls.mistral import MistralScanner, random_mistral_id
from router.answers.tool_calls.nemotron import NemotronScanner
from router.answers.tool_calls.pythonic import PythonicScanner
from router.answers.tool_calls.qwen_coder import QwenCoderScanner, converted
from router.answers.tool_calls.scanner import CallScanner, random_call_id
from router.errors import StartError
from tests.grammar.families import END, byte_level
from wire.sampling import Grammar, GrammarKind

pytestmark = pytest.mark.quick

KNOWN = frozenset({"get_weather", "add"})
Heard = tuple[str, list[tuple[str, str]]]
"""Text, and calls: names and arguments."""

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
SCANNERS: dict[str, Callable[[], CallScanner]] = {
    "hermes": HermesScanner,
    "llama3_json": lambda: Llama3Scanner(KNOWN),
    "mistral": MistralScanner,
    "pythonic": lambda: PythonicScanner(KNOWN),
    "deepseek": DeepSeekScanner,
    "nemotron": NemotronScanner,
    "qwen3_coder": lambda: QwenCoderScanner(TOOLS),
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
    (
        "deepseek",
        f"Hm.\n{LIST_BEGIN}{CALL_BEGIN}function{SEPARATOR}get_weather\n```json\n"
        '{"city": "Paris }]", "days": [1, 2]}'
        f"\n```{CALL_END}\n{CALL_BEGIN}function{SEPARATOR}add\n```json\n{{}}\n```{CALL_END}{LIST_END}",
        ("Hm.", [WEATHER, ("add", "{}")]),
    ),
    (
        "deepseek",
        f'{LIST_BEGIN}{CALL_BEGIN}add{SEPARATOR}{{"a": 1}}{CALL_END}'
        f"{CALL_BEGIN}add{SEPARATOR}{{}}{CALL_END}{LIST_END} Done.",
        ("Done.", [("add", '{"a": 1}'), ("add", "{}")]),
    ),
    (
        "deepseek",
        f'{CALL_BEGIN}function{SEPARATOR}add\n```json\n{{"a": 1',
        ("", [("add", '{"a": 1')]),
    ),
    ("deepseek", f"{LIST_BEGIN} of {CALL_BEGIN}", (f"{LIST_BEGIN} of {CALL_BEGIN}", [])),
    ("deepseek", f"{CALL_BEGIN}{{}}", (f"{CALL_BEGIN}{{}}", [])),
    ("deepseek", "a <｜tool▁call", ("a <｜tool▁call", [])),
    (
        "nemotron",
        'Hm. <TOOLCALL>[{"name": "add", "arguments": {"a": 1}}, '
        '{"name": "add", "arguments": {}}]</TOOLCALL>\nDone.',
        ("Hm.Done.", [("add", '{"a": 1}'), ("add", "{}")]),
    ),
    ("nemotron", "<TOOLCALL> of nature", ("<TOOLCALL> of nature", [])),
    ("nemotron", "<TOOLCALL> ", ("<TOOLCALL> ", [])),
    (
        "qwen3_coder",
        "Let me look.\n<tool_call>\n<function=get_weather>\n<parameter=city>"
        "\nParis }]\n</parameter>\n"
        "<parameter=days>\n[1, 2]\n</parameter>\n</function>\n</tool_call>",
        ("Let me look.", [WEATHER]),
    ),
    (
        "qwen3_coder",
        "<tool_call>\n<function=add>\n</function>\n</tool_call>\n"
        "<function=add>\n<parameter=a>\n1\n</parameter>\n</function> Done.",
        ("Done.", [("add", "{}"), ("add", '{"a": 1}')]),
    ),
    (
        "qwen3_coder",
        '<tool_call>\n<function=get_weather>\n<parameter=city>\n<b>"é"\n\n</b>\n</parameter>\n'
        "</function>",
        ("", [("get_weather", '{"city": "<b>\\"é\\"\\n\\n</b>"}')]),
    ),
    (
        "qwen3_coder",
        "<function=get_weather>\n<parameter=city>\n\n</parameter>\n</function>",
        ("", [("get_weather", '{"city": ""}')]),
    ),
    (
        "qwen3_coder",
        "<function=get_weather>\n<parameter=city>\nPar",
        ("", [("get_weather", '{"city": "Par')]),
    ),
    (
        "qwen3_coder",
        "<function=get_weather>\n<parameter=days>\n[1,",
        ("", [("get_weather", '{"days": ')]),
    ),
    (
        "qwen3_coder",
        "<tool_call>\n<function=other>\nx</function>",
        ("<tool_call>\n<function=other>\nx</function>", []),
    ),
    ("qwen3_coder", "<tool_call> of <func", ("<tool_call> of <func", [])),
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
    marks += [*DEEPSEEK_MARKS, "<TOOLCALL>", "<function=add>", "<parameter=a>", "</parameter>"]
    strategy = st.sampled_from(bits + marks) | st.text('{}[]",:;\\ \nadn=()<t', max_size=6)
    whole = "".join(data.draw(st.lists(strategy, max_size=5)))
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=8).map(sorted))
    pieces = [whole[a:b] for a, b in itertools.pairwise([0, *cuts, len(whole)])]
    assert heard(SCANNERS[format_](), pieces) == heard(SCANNERS[format_](), [whole])


def test_arguments_are_told_while_they_are_written() -> None:
    scanner = HermesScanner()
    scanner.push('<tool_call>{"name": "add", "arguments": {"text": "', done=False)
    emitted = [scanner.push(word, done=False).tool_calls for word in ("one ", "two ", "three ")]
    assert [call.arguments for calls in emitted for call in calls] == ["one ", "two ", "three "]


def test_text_is_told_at_once_but_for_what_may_begin_a_mark() -> None:
    scanner = HermesScanner()
    assert scanner.push("Hello <tool", done=False).text == "Hello"
    assert scanner.push("s> and", done=False).text == " <tools> and"


def test_ids_are_as_each_family_expects_them() -> None:
    assert random_call_id().startswith("call_")
    assert random_call_id() != random_call_id()
    assert len(random_mistral_id()) == 9
    assert random_mistral_id().isalnum()


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
    tools = TOOLS[:1]
    if format_.name == "qwen3_coder":  # noise finds no end of a text that is written as it is
        city = {"$defs": {"City": {"enum": ["Rome", "Oslo"]}}}
        function = tools[0]["function"]
        parameters = {**function["parameters"], **city}
        tools = [{"type": "function", "function": {**function, "parameters": parameters}}]
    lark = format_.enforce(tools, json.dumps, several=several)
    answers = [random_answer(lark, vocabulary, seed) for seed in range(6)]
    finished = [answer for answer in answers if answer is not None]
    assert finished
    for answer in finished:
        text, calls = heard(format_.scan(TOOLS), [answer])
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
        lark = enforce([tool], json.dumps, several=True)
        assert ('"lenient": true' in lark) is not strict


@pytest.mark.parametrize(
    ("name", "template", "tokens", "expected"),
    [
        ("auto", "... <tool_call> ...", set(), "hermes"),
        ("auto", "{{ '[TOOL_CALLS]' }}", set(), "mistral_list"),
        ("auto", "<tool_call> <function=f> <parameter=p>", set(), "qwen3_coder"),
        ("auto", f"{LIST_BEGIN} ```json", set(), "deepseek_v3"),
        ("auto", f"{LIST_BEGIN} <think>", set(), "deepseek_v31"),
        ("auto", "<TOOLCALL>[", set(), "nemotron"),
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


@pytest.mark.parametrize("pieces", [1, 7, 500])
def test_of_calls_that_must_be_alone_the_first_ends_the_answer(pieces: int) -> None:
    call = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>\n'
    text = f"so {call}{call}more"
    parser = FirstCallOnly(HermesScanner())
    parts = [text[start : start + pieces] for start in range(0, len(text), pieces)]
    parsed = [parser.push(part, done=False) for part in parts]
    deltas = [call for each in parsed for call in each.tool_calls]
    assert [call.name for call in deltas if call.name] == ["add"]
    assert "".join(call.arguments for call in deltas) == '{"a": 1}'
    assert parsed[-1].over
    assert FirstCallOnly(HermesScanner()).push(f"so {call}more", done=True).over is False


@pytest.mark.parametrize(
    ("value", "schema", "expected"),
    [
        ("5", {"type": "integer"}, "5"),
        ("5", None, "5"),
        ("5", {"type": ["string", "null"]}, '"5"'),
        ("null", {"anyOf": [{"type": "string"}, {"type": "null"}]}, "null"),
        ("True", {"type": "boolean"}, "true"),
        ("{'a': [1]}", {"type": "object"}, '{"a": [1]}'),
        ("NaN", {"type": "number"}, '"NaN"'),
        ("what\never", {"type": "object"}, '"what\\never"'),
    ],
)
def test_a_value_that_was_written_as_text_has_its_schemas_type(
    value: str, schema: Any, expected: str
) -> None:
    assert converted(value, schema) == expected


def test_a_text_of_a_strict_tool_that_cannot_be_enforced_is_named() -> None:
    properties = {"a": {"type": "string", "pattern": "x"}}
    function = {"name": "f", "strict": True, "parameters": {"properties": properties}}
    enforce = FORMATS["qwen3_coder"].enforce
    assert enforce is not None
    with pytest.raises(GrammarInvalid, match="'a' is a text with pattern"):
        enforce([{"function": function}], json.dumps, several=False)


NATURAL = {
    "hermes": '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
    "qwen3_coder": (
        "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n"
        "<parameter=note>\nso: </b>\n</parameter>\n</function>\n</tool_call>"
    ),
    "deepseek_v3": (
        f"{LIST_BEGIN}{CALL_BEGIN}function{SEPARATOR}add\n```json\n"
        f'{{"a": 1}}\n```{CALL_END}{LIST_END}'
    ),
    "deepseek_v31": f'{LIST_BEGIN}{CALL_BEGIN}add{SEPARATOR}{{"a": 1}}{CALL_END}{LIST_END}',
    "nemotron": '<TOOLCALL>[{"name": "add", "arguments": {"a": 1}}]</TOOLCALL>',
    "llama3_json": '{"name": "add", "parameters": {"a": 1}}',
    "mistral_list": '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}}]',
    "mistral_named": '[TOOL_CALLS]add[ARGS]{"a": 1}',
}
ADD: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "note": {"type": "string"}},
            "required": ["a"],
        },
    },
}


@pytest.mark.parametrize("marks", ["text", "special", "none"])
@pytest.mark.parametrize("thinks", [False, True])
@pytest.mark.parametrize("format_", ENFORCED, ids=lambda each: each.name)
def test_the_tokens_that_a_model_writes_a_call_with_follow_its_grammar(
    tmp_path: Path, format_: ToolFormat, thinks: bool, marks: str
) -> None:
    """Whether its marks are added tokens that are special, others, or none."""
    added = [*format_.marks, "<think>", "</think>"] if marks != "none" else []
    tokenizer = byte_level(dict.fromkeys(added, marks == "special"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    end = tokenizer.token_to_id(END)
    vocabulary = read_vocabulary(tmp_path / "tokenizer.json", tokenizer.get_vocab_size(), [end])
    special = vocabulary.special_tokens

    def write_mark(mark: str) -> str:
        return f"<[{special[mark]}]>" if mark in special else json.dumps(mark)

    assert format_.enforce is not None
    preface = thought("<think>", "</think>", special, begun=False) if thinks else ""
    lark = format_.enforce([ADD], write_mark, several=True)
    matcher = compile_grammar(Grammar(GrammarKind.LARK, lark, preface), vocabulary)
    before = "<think>\nI must call <b>\n</think>\n\n" if thinks else ""
    ids = tokenizer.encode(before + NATURAL[format_.name], add_special_tokens=False).ids
    for token in ids:
        assert token in matcher.allowed().members(), tokenizer.decode([token])
        matcher.consume([token])
    assert end in matcher.allowed().members()


KEYWORDS = [
    "type",
    "properties",
    "required",
    "items",
    "enum",
    "const",
    "not",
    "if",
    "then",
    "anyOf",
    "oneOf",
    "allOf",
    "uniqueItems",
    "dependentRequired",
    "discriminator",
    "additionalProperties",
    "$ref",
    "format",
    "minItems",
    "maxItems",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["string", "object", "#/a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYWORDS) | st.just("a"), inner, max_size=4)
    ),
    max_leaves=12,
)


PARAMETERS = st.dictionaries(st.sampled_from(KEYWORDS), JSON, max_size=5)


@pytest.mark.parametrize("name", ["hermes", "qwen3_coder"])
@given(parameters=PARAMETERS, strict=st.booleans())
def test_whatever_stands_in_a_schema_is_a_grammar_or_refused(
    name: str, parameters: dict[str, Any], strict: bool
) -> None:
    function = {"name": "f", "parameters": parameters, "strict": strict}
    enforce = FORMATS[name].enforce
    assert enforce is not None
    with contextlib.suppress(GrammarInvalid):
        enforce([{"function": function}], json.dumps, several=False)
    scanner = FORMATS[name].scan([{"function": function}])
    scanner.push("<tool_call><function=f><parameter=a>1</parameter>", done=True)


MARKED = [each for each in FORMATS.values() if each.calls_are_marked]


@pytest.mark.parametrize("format_", MARKED, ids=lambda each: each.name)
def test_an_answer_that_follows_a_schema_may_be_a_call_instead(
    vocabulary: Vocabulary, format_: ToolFormat
) -> None:
    assert format_.enforce is not None
    calls = format_.enforce([ADD], json.dumps, several=False)
    schema = '{"type": "object", "properties": {"name": {"type": "integer"}}, "required": ["name"]}'
    grammar = Grammar(GrammarKind.JSON_SCHEMA, schema, calls=calls)
    for answer in (NATURAL[format_.name], '{"name": 12}'):
        matcher = compile_grammar(grammar, vocabulary)
        for token in vocabulary.tokenizer.tokenize_str(answer):
            assert token in matcher.allowed().members()
            matcher.consume([token])
        assert matcher.may_end
    matcher = compile_grammar(grammar, vocabulary)
    with pytest.raises(GrammarInvalid):
        matcher.consume(vocabulary.tokenizer.tokenize_str('{"name": "other"'))


@pytest.mark.parametrize("kind", SCANNERS)
def test_a_name_nested_too_deeply_is_no_call(kind: str) -> None:
    openings = {"hermes": "<tool_call>", "mistral": "[TOOL_CALLS]"}
    deep = "[" * 5_000 + "]" * 5_000
    heard = SCANNERS[kind]().push(openings.get(kind, "") + '{"name": ' + deep + "}", done=True)
    assert heard.tool_calls == ()
    assert deep in heard.text

"""Grammars and calls of tools, from the HTTP door to the workers and back."""

from __future__ import annotations

import json
import threading
from typing import Any

import grpc
import openai
import pytest
from tokenizers import Tokenizer

import router.answers.grammar_checks
from router.answers.grammar_checks import MAX_CHECKS, GrammarSpec
from router.answers.structured import Structured
from router.config import RouterConfig
from router.errors import Overloaded, StartError
from router.text.model_card import read_model_card
from router.text.tokenizer import Tokenizer as RouterTokenizer
from tests.router.conftest import Stage, StartStage
from tests.router.test_generate import ids
from tests.router.test_http import MESSAGES, openai_client
from tests.router.tiny_model import ASSISTANT, EOS, USER, one_model
from wire import inference_pb2 as pb
from wire.identity import Role
from wire.messages import Failed, Submit
from wire.sampling import Grammar, GrammarKind

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "adds",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
        },
    },
    {"type": "function", "function": {"name": "stop"}},
]
ADD: Any = [{"type": "function", "function": {"name": "add"}}]
CALL = 'so\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


async def submitted(stage: Stage, **fields: Any) -> Submit:
    """What the worker hears of a chat with these fields."""
    worker = await stage.add("only", Role.PREFILL, script=[7])
    await stage.add("other", Role.DECODE, script=[7])
    async with openai_client(stage) as client:
        await client.chat.completions.create(model="tiny", messages=MESSAGES, **fields)
    return await worker.hears(Submit)


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        (
            {"response_format": {"type": "json_object"}},
            GrammarKind.JSON_SCHEMA,
            '{"type": "object"}',
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "strict": True, "schema": SCHEMA},
                }
            },
            GrammarKind.JSON_SCHEMA,
            SCHEMA,
        ),
        (
            {"extra_body": {"structured_outputs": {"json": SCHEMA}}},
            GrammarKind.JSON_SCHEMA,
            SCHEMA,
        ),
        (
            {"extra_body": {"structured_outputs": {"regex": "[ab]+"}}},
            GrammarKind.REGEX,
            "[ab]+",
        ),
        (
            {"extra_body": {"structured_outputs": {"choice": ["yes", 'n"o']}}},
            GrammarKind.LARK,
            'start: "yes" | "n\\"o"',
        ),
        (
            {"extra_body": {"structured_outputs": {"grammar": 'start: "a"'}}},
            GrammarKind.LARK,
            'start: "a"',
        ),
        ({"extra_body": {"regex": "x"}}, GrammarKind.REGEX, "x"),
    ],
    ids=lambda value: None if isinstance(value, GrammarKind) else str(value)[:40],
)
async def test_what_a_client_asks_for_reaches_the_worker_as_a_grammar(
    stage: Stage, fields: dict[str, Any], kind: GrammarKind, text: object
) -> None:
    grammar = (await submitted(stage, **fields)).sampling.grammar
    assert grammar is not None
    assert grammar.kind is kind
    assert (json.loads(grammar.text) if isinstance(text, dict) else grammar.text) == text


async def test_ebnf_and_structural_tags_are_translated(stage: Stage) -> None:
    submit = await submitted(stage, extra_body={"ebnf": 'root ::= "a" | "b"'})
    assert submit.sampling.grammar is not None
    assert submit.sampling.grammar.text.startswith("%llguidance")


async def test_a_structural_tag_is_translated(stage: Stage) -> None:
    tag = {
        "structures": [{"begin": "<f=x>", "schema": SCHEMA, "end": "</f>"}],
        "triggers": ["<f="],
    }
    submit = await submitted(stage, extra_body={"structured_outputs": {"structural_tag": tag}})
    assert submit.sampling.grammar is not None
    assert '"x>"' in submit.sampling.grammar.text


async def test_without_a_grammar_nothing_is_read_or_compiled(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router.answers.grammar_checks, "read_vocabulary", None)
    monkeypatch.setattr(router.answers.grammar_checks, "compile_grammar", None)
    assert (await submitted(stage)).sampling.grammar is None


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": {"type": "objct"}},
                }
            },
            "response_format",
            "Invalid type: objct",
        ),
        (
            {"extra_body": {"structured_outputs": {"regex": "[a"}}},
            "structured_outputs.regex",
            "invalid regex",
        ),
        (
            {"extra_body": {"structured_outputs": {"json": {"not": {"pattern": "x"}}}}},
            "structured_outputs.json",
            'Unimplemented keys: ["not"]',
        ),
        (
            {"extra_body": {"structured_outputs": {"choice": []}}},
            "structured_outputs.choice",
            "list of choices is empty",
        ),
        ({"extra_body": {"ebnf": 'root ::= "a" ['}}, "ebnf", "no EBNF"),
        ({"extra_body": {"ebnf": "root ::= b"}}, "ebnf", "Rule 'b' not found"),
        (
            {"extra_body": {"structured_outputs": {"structural_tag": "{}"}}},
            "structured_outputs.structural_tag",
            "cannot be read",
        ),
        (
            {"extra_body": {"structured_outputs": {"regex": "a" * 70_000}}},
            "structured_outputs.regex",
            "has 70000 bytes: at most 65536 are allowed",
        ),
        (
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "f", "parameters": {"type": "object", "$ref": "x"}},
                    }
                ],
                "tool_choice": "required",
            },
            "tools",
            "cannot be enforced",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_a_grammar_that_no_worker_could_follow_is_refused_by_name(
    stage: Stage, fields: dict[str, Any], param: str, message: str
) -> None:
    async with openai_client(stage) as client:
        for _ in range(2):  # the second time the answer is remembered
            with pytest.raises(openai.BadRequestError) as caught:
                await client.chat.completions.create(model="tiny", messages=MESSAGES, **fields)
            assert caught.value.param == param
            assert message in caught.value.message
            assert len(caught.value.message) < 700


async def test_a_grammar_that_takes_too_long_is_refused_and_others_are_not(
    start_stage: StartStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = threading.Event()
    checks = router.answers.grammar_checks
    monkeypatch.setattr(checks, "compile_grammar", lambda *_: finish.wait(60))
    stage = await start_stage(grammar_timeout_s=0.01)
    body = {"structured_outputs": {"regex": "x"}}
    async with openai_client(stage) as client:
        with pytest.raises(openai.BadRequestError, match=r"longer than 0\.01 s to compile"):
            await client.chat.completions.create(model="tiny", messages=MESSAGES, extra_body=body)
    finish.set()
    monkeypatch.undo()
    monkeypatch.setattr(stage.model.structured.checks, "_timeout_s", 60.0)
    submit = await submitted(stage, extra_body={"structured_outputs": {"regex": "y"}})
    assert submit.sampling.grammar == Grammar(GrammarKind.REGEX, "y")


async def test_so_many_grammars_are_checked_at_a_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = stage.model.structured.checks
    monkeypatch.setattr(checks, "_num_checks", MAX_CHECKS)
    with pytest.raises(Overloaded, match=f"{MAX_CHECKS} grammars"):
        await checks.check(GrammarSpec(Grammar(GrammarKind.REGEX, "z"), ""))


async def test_what_only_a_worker_finds_wrong_is_the_clients_fault_too(stage: Stage) -> None:
    worker = await stage.add("only", Role.PREFILL)
    await stage.add("other", Role.DECODE)

    async def fail(submit: Submit) -> None:
        worker.send(
            Failed(
                attempt_id=submit.attempt_id,
                stage="grammar",
                cause="cannot be followed any further",
                retryable=False,
                invalid=True,
            )
        )

    worker.serve = fail
    async with openai_client(stage) as client:
        with pytest.raises(openai.BadRequestError, match="cannot be followed any further"):
            await client.chat.completions.create(model="tiny", messages=MESSAGES)


async def test_calls_are_told_from_text_in_a_whole_answer(
    start_stage: StartStage, backend: Tokenizer
) -> None:
    stage = await start_stage(tool_parser="hermes")
    await stage.add_pair(ids(backend, CALL))
    async with openai_client(stage) as client:
        answer = await client.chat.completions.create(model="tiny", messages=MESSAGES, tools=ADD)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "so"
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert call.id.startswith("call_")
    assert (call.function.name, call.function.arguments) == ("add", '{"a": 1}')


async def test_calls_are_told_from_text_in_a_stream(
    start_stage: StartStage, backend: Tokenizer
) -> None:
    stage = await start_stage(tool_parser="hermes")
    await stage.add_pair(ids(backend, CALL))
    text, names, arguments, reasons = "", [], "", []
    async with openai_client(stage) as client:
        stream = await client.chat.completions.create(
            model="tiny", messages=MESSAGES, tools=ADD, stream=True
        )
        async for chunk in stream:
            delta = chunk.choices[0].delta
            text += delta.content or ""
            reasons.append(chunk.choices[0].finish_reason)
            for call in delta.tool_calls or ():
                assert call.index == 0
                assert call.function is not None
                names += [call.function.name] if call.function.name else []
                arguments += call.function.arguments or ""
    assert (text, names, arguments, reasons[-1]) == ("so", ["add"], '{"a": 1}', "tool_calls")


async def test_with_tool_choice_none_text_stays_text(
    start_stage: StartStage, backend: Tokenizer
) -> None:
    stage = await start_stage(tool_parser="hermes")
    await stage.add_pair(ids(backend, CALL))
    async with openai_client(stage) as client:
        answer = await client.chat.completions.create(
            model="tiny", messages=MESSAGES, tools=ADD, tool_choice="none"
        )
    assert answer.choices[0].message.content == CALL
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("choice", "parallel", "calls"),
    [
        ("required", True, ["add", "stop"]),
        ("required", False, ["add", "stop"]),
        ({"type": "function", "function": {"name": "stop"}}, True, ["stop"]),
    ],
    ids=["required", "one at a time", "named"],
)
async def test_a_call_that_must_be_made_is_a_grammar(
    stage: Stage, choice: Any, parallel: bool, calls: list[str]
) -> None:
    submit = await submitted(stage, tools=TOOLS, tool_choice=choice, parallel_tool_calls=parallel)
    assert submit.sampling.grammar is not None
    lark = submit.sampling.grammar.text
    assert lark.count("%json") == len(calls)
    for name in calls:
        assert json.dumps(f'{{"name": "{name}", "parameters": ') in lark
    assert ("call)*" in lark) == (parallel and choice == "required")


async def test_with_tools_to_choose_from_the_answer_is_free(stage: Stage) -> None:
    assert (await submitted(stage, tools=TOOLS)).sampling.grammar is None


async def test_marks_that_are_special_tokens_are_shown_to_the_parser(stage: Stage) -> None:
    tokenizer = stage.model.tokenizer
    assert tokenizer.special_token_id("<|user|>") == USER
    assert tokenizer.special_token_id("the") is None
    shown = tokenizer.detokenizer(shown=frozenset({USER}))
    assert [shown.push(token) for token in (USER, ASSISTANT, EOS)] == ["<|user|>", "", ""]
    hidden = tokenizer.detokenizer()
    assert hidden.push(USER) == ""


def test_a_wrong_tool_parser_is_said_at_the_start(model_dir: Any) -> None:
    card = read_model_card(model_dir)
    config = RouterConfig(models=one_model(model_dir), tool_parser="what")
    with pytest.raises(StartError, match="tool_parser is 'what'"):
        Structured(config, card, RouterTokenizer(card))


async def test_grpc_clients_ask_for_the_same_grammars(stage: Stage) -> None:
    worker = await stage.add("only", Role.PREFILL, script=[7])
    await stage.add("other", Role.DECODE, script=[7])
    constraint = pb.Constraint(regex="[0-9]+")
    async for _ in stage.call(text="the fox", constraint=constraint):
        pass
    assert (await worker.hears(Submit)).sampling.grammar == Grammar(GrammarKind.REGEX, "[0-9]+")
    with pytest.raises(grpc.aio.AioRpcError, match="invalid regex") as caught:
        await stage.call(text="the fox", constraint=pb.Constraint(regex="[")).read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("stream", [False, True])
async def test_with_one_call_at_a_time_a_second_one_ends_the_answer(
    start_stage: StartStage, backend: Tokenizer, stream: bool
) -> None:
    stage = await start_stage(tool_parser="hermes")
    endless = CALL + "\n" + CALL.partition("\n")[2] + " and more" * 20
    await stage.add_pair(ids(backend, endless))
    asked: dict[str, Any] = {
        "model": "tiny",
        "messages": MESSAGES,
        "tools": ADD,
        "parallel_tool_calls": False,
        "max_tokens": 180,
    }
    names, arguments, reasons = list[str](), "", list[str | None]()
    async with openai_client(stage) as client:
        if stream:
            async for chunk in await client.chat.completions.create(**asked, stream=True):
                reasons.append(chunk.choices[0].finish_reason)
                for piece in chunk.choices[0].delta.tool_calls or ():
                    names += [piece.function.name] if piece.function.name else []
                    arguments += piece.function.arguments or ""
        else:
            answer = await client.chat.completions.create(**asked)
            calls = answer.choices[0].message.tool_calls or ()
            names = [call.function.name for call in calls]
            arguments = "".join(call.function.arguments for call in calls)
            reasons = [answer.choices[0].finish_reason]
            assert answer.usage.completion_tokens < len(ids(backend, endless))
    assert (names, arguments, reasons[-1]) == (["add"], '{"a": 1}', "tool_calls")


async def test_a_special_token_of_a_structural_tag_is_part_of_the_answer(
    stage: Stage, backend: Tokenizer
) -> None:
    await stage.add_pair([*ids(backend, "so "), USER, *ids(backend, "12")])
    tag = {
        "structures": [{"begin": "<|user|>", "schema": {"type": "integer"}, "end": ""}],
        "triggers": ["<|user|>"],
    }
    async with openai_client(stage) as client:
        answer = await client.chat.completions.create(
            model="tiny",
            messages=MESSAGES,
            extra_body={"response_format": {"type": "structural_tag", **tag}},
        )
    assert answer.choices[0].message.content == "so <|user|>12"


async def response_format(stage: Stage, **json_schema: Any) -> Grammar:
    """The grammar of an answer that must follow this."""
    wanted = {"type": "json_schema", "json_schema": {"name": "n", **json_schema}}
    submit = await submitted(stage, response_format=wanted)
    assert submit.sampling.grammar is not None
    return submit.sampling.grammar


async def test_a_schema_may_be_true_and_have_formats_that_describe(stage: Stage) -> None:
    assert (await response_format(stage, schema=True)).text == "{}"


async def test_a_format_that_describes_is_no_part_of_the_grammar(stage: Stage) -> None:
    schema = {"type": "string", "format": "password"}
    assert json.loads((await response_format(stage, schema=schema)).text) == {"type": "string"}


UNIQUE = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}


async def test_what_is_not_strict_may_hold_what_cannot_be_enforced(stage: Stage) -> None:
    text = (await response_format(stage, schema=UNIQUE, strict=False)).text
    assert json.loads(text)["x-guidance"]["lenient"] is True


@pytest.mark.parametrize("strict", [True, None])
async def test_what_cannot_be_enforced_is_refused_unless_it_is_not_strict(
    stage: Stage, strict: bool | None
) -> None:
    with pytest.raises(openai.BadRequestError, match="uniqueItems"):
        await response_format(stage, schema=UNIQUE, strict=strict)


@pytest.mark.parametrize("shape", ["chat", "responses"])
@pytest.mark.parametrize("mode", ["auto", "required"])
async def test_only_allowed_tools_may_be_called(stage: Stage, mode: str, shape: str) -> None:
    allowed: dict[str, Any] = {
        "mode": mode,
        "tools": [{"type": "function", "function": {"name": "stop"}}],
    }
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    if shape == "responses":
        allowed["tools"] = [{"type": "function", "name": "stop"}]
        choice = {"type": "allowed_tools", **allowed}
    submit = await submitted(stage, tools=TOOLS, tool_choice=choice)
    shown = stage.model.tokenizer.decode(submit.tokens, skip_special_tokens=False)
    assert '"stop"' in shown
    assert '"add"' not in shown
    grammar = submit.sampling.grammar
    assert (grammar is None) == (mode == "auto")
    assert grammar is None or grammar.text.count("%json") == 1


@pytest.mark.parametrize(
    "allowed",
    [
        {"mode": "auto", "tools": [{"type": "function", "function": {"name": "other"}}]},
        {"mode": "auto", "tools": []},
        {"mode": "none", "tools": [{"type": "function", "function": {"name": "add"}}]},
        {"mode": "auto", "tools": [{"type": "custom", "name": "add"}]},
        {"mode": "auto"},
    ],
    ids=["unknown", "empty", "mode", "kind", "absent"],
)
async def test_allowed_tools_that_say_nothing_sensible_are_refused(
    stage: Stage, allowed: Any
) -> None:
    choice: Any = {"type": "allowed_tools", "allowed_tools": allowed}
    async with openai_client(stage) as client:
        with pytest.raises(openai.BadRequestError, match="allowed_tools") as caught:
            await client.chat.completions.create(
                model="tiny", messages=MESSAGES, tools=TOOLS, tool_choice=choice
            )
    assert caught.value.param == "tool_choice"


async def test_an_answer_with_a_schema_and_tools_may_be_a_call(
    start_stage: StartStage, backend: Tokenizer
) -> None:
    stage = await start_stage(tool_parser="hermes")
    prefill, _ = await stage.add_pair(ids(backend, CALL.partition("\n")[2]))
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    asked: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "response_format": wanted}
    async with openai_client(stage) as client:
        answer = await client.chat.completions.create(**asked, tools=ADD, max_tokens=90)
        await client.chat.completions.create(**asked, tools=ADD, tool_choice="none", max_tokens=90)
        await client.chat.completions.create(**asked, max_tokens=90)
    assert answer.choices[0].finish_reason == "tool_calls"
    grammars = [(await prefill.hears(Submit, nth)).sampling.grammar for nth in (1, 2, 3)]
    assert [bool(grammar and grammar.calls) for grammar in grammars] == [True, False, False]


async def test_a_conversation_goes_on_behind_a_call_that_max_tokens_cut(stage: Stage) -> None:
    await stage.add_pair([7])
    messages: Any = [
        {"role": "user", "content": "the fox"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "1",
                    "type": "function",
                    "function": {"name": "add", "arguments": '{"a": "the la'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "cut"},
    ]
    async with openai_client(stage) as client:
        answer = await client.chat.completions.create(model="tiny", messages=messages)
    assert answer.choices[0].finish_reason

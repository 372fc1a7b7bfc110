"""Model directories, chat templates and the tokenizer behind them."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from router.errors import InvalidRequest, StartError
from router.requests.prompts import ChatMessage, ChatPrompt, ToolCall
from router.text.chat_template import ChatTemplate
from router.text.detokenizer import detokenize
from router.text.model_card import read_model_card
from router.text.tokenizer import Tokenizer
from tests.router.tiny_model import EOS, MAX_MODEL_LEN, VOCAB_SIZE

pytestmark = pytest.mark.quick


@pytest.fixture
def directory(model_dir: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(model_dir, tmp_path / "copy"))


def change(path: Path, **fields: Any) -> None:
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, **fields}))


def test_the_card_says_what_the_files_say(model_dir: Path) -> None:
    card = read_model_card(model_dir)
    assert card.name == "tiny"
    assert (card.vocab_size, card.max_model_len) == (VOCAB_SIZE, MAX_MODEL_LEN)
    assert card.eos_token_ids == (EOS,)
    assert card.special_tokens == {"bos_token": "<|bos|>", "eos_token": "<|eos|>"}
    assert read_model_card(model_dir, "mine").name == "mine"


def test_a_template_file_wins_over_the_configuration(directory: Path) -> None:
    (directory / "chat_template.jinja").write_text("from the file")
    assert read_model_card(directory).chat_template == "from the file"


def test_of_several_templates_the_default_is_taken(directory: Path) -> None:
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    change(directory / "tokenizer_config.json", chat_template=named)
    assert read_model_card(directory).chat_template == "d"


def test_nested_settings_of_a_language_model_are_found(directory: Path) -> None:
    nested = {"vocab_size": 500, "max_position_embeddings": 64, "eos_token_id": [1, 2]}
    (directory / "config.json").write_text(json.dumps({"text_config": nested}))
    (directory / "generation_config.json").unlink()
    card = read_model_card(directory)
    assert (card.vocab_size, card.max_model_len, card.eos_token_ids) == (500, 64, (1, 2))


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(StartError, match=f"{name} is missing"):
        read_model_card(directory)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"a": "\xff"}'])
def test_a_broken_file_is_named(directory: Path, content: bytes) -> None:
    (directory / "tokenizer_config.json").write_bytes(content)
    with pytest.raises(StartError, match=r"tokenizer_config\.json is not a JSON object"):
        read_model_card(directory)


@pytest.mark.parametrize("value", [None, 0, -1, "many"])
def test_a_useless_number_is_named(directory: Path, value: object) -> None:
    change(directory / "config.json", vocab_size=value)
    with pytest.raises(StartError, match=r"config\.json: vocab_size"):
        read_model_card(directory)


def test_a_broken_tokenizer_is_named(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(StartError, match=r"tokenizer\.json is no tokenizer"):
        Tokenizer(read_model_card(directory))


def test_a_broken_template_is_named_with_its_line(directory: Path) -> None:
    (directory / "chat_template.jinja").write_text("\n{% if %}")
    with pytest.raises(StartError, match="line 2"):
        Tokenizer(read_model_card(directory))


def test_a_model_without_template_refuses_chats(directory: Path) -> None:
    change(directory / "tokenizer_config.json", chat_template=None)
    tokenizer = Tokenizer(read_model_card(directory))
    with pytest.raises(InvalidRequest, match="no chat template") as caught:
        tokenizer.encode_chat(ChatPrompt((ChatMessage("user", "a"),)))
    assert caught.value.field == "messages"


async def test_a_long_text_in_a_thread_holds_nobody_up(model_dir: Path) -> None:
    """Who held everybody up would do so every time; a busy machine does it now and then."""
    tokenizer = Tokenizer(read_model_card(model_dir))
    text = "the quick brown fox jumps " * 20_000
    for _ in range(5):
        if (stall := await longest_stall(lambda: tokenizer.encode_text(text))) < 0.5:
            break
    assert stall < 0.5


async def longest_stall(work: Callable[[], object]) -> float:
    """Of the time that the work takes in a thread, the part that the loop once stood still."""
    began = last = time.perf_counter()
    longest = 0.0
    working = asyncio.create_task(asyncio.to_thread(work))
    while not working.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest / (last - began)


def test_text_that_spells_a_special_token_decodes_without_it(model_dir: Path) -> None:
    tokenizer = Tokenizer(read_model_card(model_dir))
    assert tokenizer.decode(tokenizer.encode_text("a<|eos|>b")) == "ab"
    assert tokenizer.token_text(EOS) == "<|eos|>"
    assert tokenizer.token_bytes(VOCAB_SIZE + 7) == b""


USER = ChatPrompt((ChatMessage("user", "hi <&>"),))
CALL = ToolCall("call-1", "add", '{"b": 1, "a": 2}')


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "hi <&>"}'),
        ("{{ {'b': 'é', 'a': 1} | tojson(indent=1) }}", '{\n "b": "é",\n "a": 1\n}'),
        ("{% if true %}\n  x\n  {% endif %}\ny", "  x\ny"),
        ("{{ strftime_now('%%') }}", "%"),
        ("{% for m in [1, 2, 3] %}{% if m == 2 %}{% break %}{% endif %}{{ m }}{% endfor %}", "1"),
        ("a{% generation %}{{ messages[0].content }}{% endgeneration %}b", "ahi <&>b"),
        ("{{ bos_token }}|{{ add_generation_prompt }}|{{ tools }}", "<s>|True|None"),
    ],
)
def test_templates_find_what_they_rely_on(source: str, text: str) -> None:
    assert ChatTemplate(source, {"bos_token": "<s>"}).render(USER) == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no') }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ nothing.at_all }}",
    ],
)
def test_what_a_template_may_not_do_is_refused(source: str) -> None:
    with pytest.raises(InvalidRequest, match="chat template rejects"):
        ChatTemplate(source, {}).render(USER)


def test_tools_and_their_calls_reach_the_template_as_objects() -> None:
    source = (
        "{{ tools[0].function.name }}|{% for m in messages %}{{ m.role }}:{{ m.content }}"
        "{% for call in m.tool_calls or [] %}"
        "{{ call.id }}={{ call.function.arguments | tojson }}{% endfor %}"
        "{{ m.tool_call_id }}{{ m.name }};{% endfor %}"
    )
    messages = (
        ChatMessage("assistant", tool_calls=(CALL,)),
        ChatMessage("tool", "3", name="add", tool_call_id="call-1"),
    )
    prompt = ChatPrompt(messages, tools=({"function": {"name": "add"}},))
    text = 'add|assistant:call-1={"b": 1, "a": 2};tool:3call-1add;'
    assert ChatTemplate(source, {}).render(prompt) == text


def test_a_template_that_shows_no_tools_refuses_them() -> None:
    with pytest.raises(InvalidRequest, match="does not support tools") as caught:
        ChatTemplate("x", {}).render(ChatPrompt(USER.messages, tools=({"function": {}},)))
    assert caught.value.field == "tools"


def test_chats_with_tools_have_a_template_of_their_own_where_the_model_has_one(
    directory: Path,
) -> None:
    named = [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "with tools"},
    ]
    change(directory / "tokenizer_config.json", chat_template=named)
    tokenizer = Tokenizer(read_model_card(directory))
    with_tools = ChatPrompt(USER.messages, tools=({"function": {}},))
    assert tokenizer.decode(tokenizer.encode_chat(USER)) == "plain"
    assert tokenizer.decode(tokenizer.encode_chat(with_tools)) == "with tools"


@pytest.mark.parametrize(("source", "role"), [("{{ m }}", "system"), ("developer", "developer")])
def test_a_developer_is_the_system_where_the_template_knows_none(source: str, role: str) -> None:
    template = ChatTemplate("{# " + source + " #}{{ messages[0].role }}", {})
    assert template.render(ChatPrompt((ChatMessage("developer", "a"),))) == role


def test_a_final_message_is_continued_where_it_ends() -> None:
    source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
    messages = (ChatMessage("user", "a"), ChatMessage("assistant", "b "))
    prompt = ChatPrompt(messages, add_generation_prompt=False, continue_final_message=True)
    assert ChatTemplate(source, {}).render(prompt) == "<user>a</><assistant>b "
    with pytest.raises(InvalidRequest, match="cannot be continued"):
        ChatTemplate("{{ messages[0].content }}", {}).render(prompt)


def test_a_template_hears_its_arguments_but_not_instead_of_the_messages() -> None:
    arguments = {"enable_thinking": False, "messages": "mine"}
    prompt = ChatPrompt(USER.messages, template_args=arguments)
    source = "{{ enable_thinking }} {{ messages[0].content }}"
    assert ChatTemplate(source, {}).render(prompt) == "False hi <&>"


def test_special_tokens_show_when_they_are_not_skipped(model_dir: Path) -> None:
    tokenizer = Tokenizer(read_model_card(model_dir))
    tokens = tokenizer.encode_text("a<|eos|>b", add_special_tokens=False)
    assert tokenizer.decode(tokens, skip_special_tokens=False) == "a<|eos|>b"
    stream = tokenizer.detokenizer(skip_special_tokens=False)
    assert detokenize(stream, tokens) == "a<|eos|>b"

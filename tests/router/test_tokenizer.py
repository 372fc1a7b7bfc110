"""Model directories, chat templates and the tokenizer behind them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from router.chat_template import ChatTemplate
from router.errors import InvalidRequest, StartError
from router.model_card import read_model_card
from router.tokenizer import Tokenizer
from tests.router.tiny_model import EOS, MAX_MODEL_LEN, VOCAB_SIZE


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
    with pytest.raises(StartError, match=r"tokenizer_config\.json is no JSON object"):
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
        tokenizer.encode_chat([{"role": "user", "content": "a"}])
    assert caught.value.field == "messages"


def test_text_that_spells_a_special_token_decodes_without_it(model_dir: Path) -> None:
    tokenizer = Tokenizer(read_model_card(model_dir))
    assert tokenizer.decode(tokenizer.encode_text("a<|eos|>b")) == "ab"
    assert tokenizer.token_text(EOS) == "<|eos|>"
    assert tokenizer.token_bytes(VOCAB_SIZE + 7) == b""


USER = [{"role": "user", "content": "hi <&>"}]


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
    with pytest.raises(InvalidRequest, match="chat template refuses"):
        ChatTemplate(source, {}).render(USER)

"""Tokenizers of every structure, beside the library and transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from router.text.detokenizer import detokenize
from router.text.model_card import read_model_card
from router.text.tokenizer import Tokenizer
from tests.router.families import write_family
from tests.router.tokenizers import BYTES, FAMILIES

pytestmark = pytest.mark.quick

TEXTS = [
    "The capital of France is Paris.",
    "  two blanks,  and  more ",
    "naïve café 你好 😀!",
    "def add(a, b):\n    return a + b\n",
    "true untrue",
]
LETTERS = "aeT .,é你😀\n"


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    return {name: write_family(name, root / name) for name in FAMILIES}


@pytest.fixture(scope="module")
def ours(directories: dict[str, Path]) -> dict[str, Tokenizer]:
    return {name: Tokenizer(read_model_card(it)) for name, it in directories.items()}


@pytest.fixture(scope="module")
def theirs(directories: dict[str, Path]) -> dict[str, PreTrainedTokenizerFast]:
    return {name: AutoTokenizer.from_pretrained(str(it)) for name, it in directories.items()}


def continued(tokenizer: Tokenizer, ids: Sequence[int], start: int) -> str:
    """The text of ids[start:] after the others."""
    return detokenize(tokenizer.detokenizer(context=ids[:start]), ids[start:])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_texts_are_those_of_transformers(
    ours: dict[str, Tokenizer],
    theirs: dict[str, PreTrainedTokenizerFast],
    family: str,
    text: str,
) -> None:
    ids = theirs[family].encode(text)
    assert ours[family].encode_text(text) == ids
    assert ours[family].decode(ids) == theirs[family].decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("family", ["llama2", "mistral", "gemma", "unigram"])
def test_an_answer_begins_with_its_blank(ours: dict[str, Tokenizer], family: str) -> None:
    tokenizer = ours[family]
    prompt = tokenizer.encode_text("The capital of France is")
    ids = tokenizer.encode_text("The capital of France is Paris.")
    assert ids[: len(prompt)] == prompt
    assert continued(tokenizer, ids, len(prompt)) == " Paris."


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(text=st.one_of(st.sampled_from(TEXTS), st.text(alphabet=LETTERS, max_size=30)))
def test_wherever_a_text_is_cut_its_parts_add_up(
    ours: dict[str, Tokenizer], family: str, text: str
) -> None:
    """Also where the prompt ends within a character: the answer has it then."""
    tokenizer = ours[family]
    ids = tokenizer.encode_text(text)
    whole = tokenizer.decode(ids)
    for start in range(len(ids) + 1):
        stream = tokenizer.detokenizer()
        told = "".join(map(stream.push, ids[:start]))
        assert told + continued(tokenizer, ids, start) == whole


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", TEXTS)
def test_an_answer_is_what_the_librarys_own_stream_makes_of_it(
    ours: dict[str, Tokenizer], family: str, text: str
) -> None:
    backend = FAMILIES[family]()
    ids = backend.encode(text).ids
    for start in range(1, len(ids)):
        if "\ufffd" in backend.decode(ids[:start]):
            continue
        stream = DecodeStream(ids=ids[:start], skip_special_tokens=True)
        expected = "".join(stream.step(backend, token) or "" for token in ids[start:])
        if backend.decode(ids[:start]) or start == len(ids):
            assert continued(ours[family], ids, start) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_between_prompt_and_answer_hide_no_blank(
    ours: dict[str, Tokenizer], family: str
) -> None:
    """As after a chat template's last mark."""
    tokenizer = ours[family]
    word = tokenizer.encode_text("x is", add_special_tokens=False)[-1:]
    special = min(tokenizer.special_texts)
    prompt = tokenizer.encode_text("Hello", add_special_tokens=False) + [special] * 40
    assert continued(tokenizer, prompt + word, len(prompt)).lstrip() == "is"
    assert continued(tokenizer, prompt + word, len(prompt)) == tokenizer.decode(
        prompt + word
    ).removeprefix("Hello")


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_told_apart_by_their_bytes(ours: dict[str, Tokenizer], family: str) -> None:
    """The bytes of a text's tokens are the text's, but for a blank that the tokenizer adds."""
    tokenizer = ours[family]
    for text in TEXTS:
        ids = tokenizer.encode_text(text, add_special_tokens=False)
        content = b"".join(map(tokenizer.token_bytes, ids))
        expected = text.encode()
        if family == "unigram":  # it has no token for letters that it never saw
            assert content.decode().lstrip()[:3] == text.lstrip()[:3]
        else:
            assert content in (expected, b" " + expected)


@pytest.mark.parametrize("family", ["llama2", "mistral", "gemma"])
def test_a_word_with_and_without_a_blank_are_two(ours: dict[str, Tokenizer], family: str) -> None:
    backend = FAMILIES[family]()
    blank, bare = backend.token_to_id("▁true"), backend.token_to_id("true")
    assert blank is not None
    texts = [ours[family].token_text(token) for token in (blank, bare) if token is not None]
    assert texts == [" true", "true"][: len(texts)]


@pytest.mark.parametrize("family", ["llama2", "mistral", "gemma"])
def test_byte_tokens_stand_for_their_bytes(ours: dict[str, Tokenizer], family: str) -> None:
    backend, tokenizer = FAMILIES[family](), ours[family]
    tokens = [backend.token_to_id(name) for name in BYTES]
    assert [tokenizer.token_bytes(token) for token in tokens] == [bytes([b]) for b in range(256)]
    assert tokenizer.token_text(tokens[0xE5]) == "bytes:\\xe5"
    assert len({tokenizer.token_text(token) for token in tokens}) == 256


@pytest.mark.parametrize(
    ("family", "name"), [("llama2", "</s>"), ("gemma", "<end_of_turn>"), ("qwen2", "<|im_end|>")]
)
def test_special_tokens_have_their_names(
    ours: dict[str, Tokenizer], family: str, name: str
) -> None:
    tokenizer = ours[family]
    token = tokenizer.special_token_id(name)
    assert token is not None
    assert tokenizer.token_text(token) == name

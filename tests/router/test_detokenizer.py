"""Pieces of text add up to the whole decode, and no piece holds half a character."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from router.text.detokenizer import (
    ByteDetokenizer,
    Detokenizer,
    WindowDetokenizer,
    byte_alphabet,
    bytes_of,
    detokenize,
    piece_of,
)
from tests.router.tiny_model import train_tokenizer

pytestmark = pytest.mark.quick

BYTE_LEVEL = train_tokenizer()
ALPHABET = byte_alphabet()


def sentencepiece_like() -> Tokenizer:
    """Words begin with U+2581, unknown characters fall back to bytes, as Llama's first models."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["▁", "▁a", "▁the", "b", "wheel", "é", "好", "▁▁"]
    vocab = {token: index for index, token in enumerate(["<s>", *bytes_, *words])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return tokenizer


def metaspace() -> Tokenizer:
    words = ["▁", "▁a", "▁the", "b", "wheel", "é", "好", "▁▁"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "b"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


SENTENCEPIECE, METASPACE = sentencepiece_like(), metaspace()


def byte_stream() -> Detokenizer:
    return ByteDetokenizer(
        lambda token: piece_of(bytes_of(BYTE_LEVEL.id_to_token(token), ALPHABET))
    )


def window_stream(tokenizer: Tokenizer) -> Detokenizer:
    special = frozenset(tokenizer.get_added_tokens_decoder())
    return WindowDetokenizer(lambda ids: tokenizer.decode(ids), special)


def byte_ids(text: str) -> list[int]:
    """One token per byte: the worst way to cut a text."""
    return [1 + byte for byte in text.encode()]


@given(st.text(alphabet="aé好😀👩‍🚀\u0301\ufffd \n\x00٣"))
def test_any_text_comes_out_of_a_byte_level_tokenizer_as_it_went_in(text: str) -> None:
    ids = BYTE_LEVEL.encode(text, add_special_tokens=False).ids
    assert detokenize(byte_stream(), ids) == text


@given(st.text(alphabet="aé好😀👩‍🚀\u0301 ", min_size=1))
def test_no_piece_holds_half_a_character(text: str) -> None:
    single_bytes = [BYTE_LEVEL.token_to_id(c) for c in map(_character_of, text.encode())]
    stream = byte_stream()
    pieces = [stream.push(token) for token in single_bytes]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == text
    assert stream.flush() == ""


def _character_of(byte: int) -> str:
    return next(character for character, value in ALPHABET.items() if value == byte)


@given(st.lists(st.integers(5, BYTE_LEVEL.get_vocab_size() - 1)))
def test_random_tokens_decode_as_the_library_decodes_them(ids: list[int]) -> None:
    assert detokenize(byte_stream(), ids) == BYTE_LEVEL.decode(ids)


@given(st.lists(st.integers(0, 7), max_size=60))
def test_leading_spaces_are_those_of_the_whole_text(ids: list[int]) -> None:
    assert detokenize(window_stream(METASPACE), ids) == METASPACE.decode(ids)


@given(st.text(alphabet="aé好😀 ", max_size=40), st.lists(st.integers(257, 264), max_size=5))
def test_byte_fallback_gives_whole_characters(text: str, words: list[int]) -> None:
    ids = [*words, *byte_ids(text), *words, 0, *words]
    stream = window_stream(SENTENCEPIECE)
    pieces = [stream.push(token) for token in ids]
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == SENTENCEPIECE.decode(ids)


def test_what_never_becomes_a_character_is_shown_at_the_end() -> None:
    stream = window_stream(SENTENCEPIECE)
    assert stream.push(1 + 0xE5) == ""
    assert stream.flush() == "\ufffd"
    bytewise = byte_stream()
    assert bytewise.push(BYTE_LEVEL.token_to_id(_character_of(0xE5))) == ""
    assert bytewise.flush() == "\ufffd"


def test_a_character_that_is_itself_a_replacement_is_not_lost() -> None:
    ids = byte_ids("a\ufffdb\ufffd")
    assert detokenize(window_stream(SENTENCEPIECE), ids) == "a\ufffdb\ufffd"


@pytest.mark.parametrize("token", [258, 1 + 0xE5], ids=["words", "broken bytes"])
def test_the_window_stays_small(token: int) -> None:
    longest = 0

    def decode(ids: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return SENTENCEPIECE.decode(ids)

    stream = WindowDetokenizer(decode, frozenset())
    for _ in range(500):
        stream.push(token)
    assert longest <= WindowDetokenizer.MAX_BROKEN


@settings(deadline=None)
@given(st.just("the quick brown fox " * 200))
def test_a_long_text_costs_little_per_token(text: str) -> None:
    ids = BYTE_LEVEL.encode(text, add_special_tokens=False).ids
    began = time.process_time()
    assert detokenize(byte_stream(), ids) == text
    assert (time.process_time() - began) / len(ids) < 100e-6

"""The fewest tokens of a text: never more than it has, and often not many fewer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from cluster.bundled import BUNDLED_MODEL
from router.errors import InvalidRequest
from router.intake.validation import tokenize
from router.requests.prompts import ChatMessage, ChatPrompt, Prompt, TextPrompt
from router.text.detokenizer import byte_alphabet
from router.text.length_bound import LengthBound, length_bound
from router.text.model_card import read_model_card
from router.text.tokenizer import Tokenizer
from tests.router.tiny_model import MAX_MODEL_LEN, train_tokenizer

pytestmark = pytest.mark.quick

Change = Callable[[dict[str, Any]], None]
BUNDLED = Backend.from_file(str(Path(BUNDLED_MODEL) / "tokenizer.json"))
TEXTS = st.one_of(
    st.text(max_size=200),
    st.text("ab 1.\n", max_size=400),
    st.lists(st.sampled_from(["the fox", "    ", "12", "\n\n", "é", "<|end|>", "::"])).map("".join),
)


def changed(change: Change) -> Backend:
    parts = json.loads(BUNDLED.to_str())
    change(parts)
    return Backend.from_str(json.dumps(parts))


def composing(parts: dict[str, Any]) -> None:
    parts["normalizer"] = {"type": "NFC"}


def bound_of(backend: Backend) -> LengthBound:
    bound = length_bound(backend, byte_alphabet())
    assert bound is not None
    return bound


@pytest.mark.parametrize("backend", [BUNDLED, train_tokenizer(), changed(composing)])
def test_no_text_has_fewer_tokens(backend: Backend) -> None:
    bound = bound_of(backend)

    @given(TEXTS)
    def holds(text: str) -> None:
        assert bound.min_num_tokens(text) <= len(backend.encode(text, add_special_tokens=False))

    holds()


def test_letters_that_become_one_are_counted_as_one() -> None:
    composed = bound_of(changed(composing))
    assert composed.min_num_tokens("e\u0301" * 100) == composed.min_num_tokens("é" * 100)


def test_ordinary_text_is_told_by_its_words() -> None:
    text = (Path(__file__).parents[2] / "router" / "journeys" / "conductor.py").read_text()
    num_tokens = len(BUNDLED.encode(text))
    assert num_tokens / 6 < bound_of(BUNDLED).min_num_tokens(text) <= num_tokens


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts.update(normalizer={"type": "Lowercase"}),
        lambda parts: parts["added_tokens"][0].update(lstrip=True),
        lambda parts: parts["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"),
        lambda parts: parts.update(pre_tokenizer={"type": "WhitespaceSplit"}),
    ],
)
def test_nothing_is_promised_where_text_may_vanish(change: Change) -> None:
    assert length_bound(changed(change), byte_alphabet()) is None


class NeverEncodes(Tokenizer):
    def encode_text(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        raise AssertionError("it was tokenized")


def test_what_is_certainly_too_long_is_not_tokenized(model_dir: Path) -> None:
    tokenizer = NeverEncodes(read_model_card(model_dir))
    text = "the fox " * 5000
    chat = ChatPrompt((ChatMessage("user", text),))
    prompts: dict[str, Prompt] = {"prompt": TextPrompt(text), "messages": chat}
    for field, prompt in prompts.items():
        with pytest.raises(InvalidRequest, match=r"at least \d+ tokens") as caught:
            tokenize(prompt, tokenizer, MAX_MODEL_LEN)
        assert caught.value.field == field
        with pytest.raises(AssertionError):  # whoever wants only a part of it may send more
            tokenize(prompt, tokenizer)

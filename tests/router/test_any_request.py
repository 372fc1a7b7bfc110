"""Whatever a client sends, it gets a request that can be served, or hears what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import InvalidRequest
from router.intake.validation import Bounds, build_request, check_draft, tokenize
from router.openai.body_parsing import chat_draft, completion_drafts, parse_body
from router.openai.headers import RequestHead
from router.openai.request_bodies import ChatBody, CompletionBody
from router.requests.request import GenerateRequest, RequestDraft
from router.text.model_card import read_model_card
from router.text.tokenizer import Tokenizer
from tests.router.tiny_model import MAX_MODEL_LEN, VOCAB_SIZE

pytestmark = pytest.mark.quick

HEAD = RequestHead(request_id="r")
BOUNDS = Bounds(
    vocab_size=VOCAB_SIZE,
    max_model_len=MAX_MODEL_LEN,
    default_max_tokens=16,
    request_timeout_s=60.0,
    max_n=4,
    trusts_templates=True,
)
TEXT = st.text(max_size=8) | st.sampled_from(["a", "{{ x.y.z }}", "{% if %}", "\ud800", "tiny"])
NUMBER = st.integers(-3, 500) | st.floats(-3, 3) | st.sampled_from([2**63, -(2**63), 10**30, 1e308])
ANY = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
TOOL = st.fixed_dictionaries(
    {"type": st.just("function") | TEXT},
    optional={
        "function": ANY | st.fixed_dictionaries({"name": TEXT}, optional={"parameters": ANY})
    },
)
CALL = st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": TEXT, "arguments": TEXT})})
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "tool", "developer", "wizard"])},
    optional={
        "content": TEXT | st.lists(st.fixed_dictionaries({"type": TEXT, "text": TEXT}), max_size=2),
        "tool_calls": st.lists(CALL, max_size=2),
        "name": TEXT,
    },
)
LIKELY: dict[str, Any] = {
    "prompt": TEXT | st.lists(TEXT | st.integers(-1, VOCAB_SIZE) | st.lists(st.integers(0, 9))),
    "messages": st.lists(MESSAGE, max_size=3),
    "tools": st.lists(TOOL, max_size=2),
    "tool_choice": st.sampled_from(["auto", "none", "required"]) | ANY,
    "stop": TEXT | st.lists(TEXT, max_size=2),
    "logit_bias": st.dictionaries(st.integers(-1, VOCAB_SIZE).map(str) | TEXT, NUMBER, max_size=2),
    "allowed_token_ids": st.lists(st.integers(-1, VOCAB_SIZE), max_size=3),
    "bad_words": st.lists(TEXT, max_size=2),
    "chat_template": TEXT,
    "chat_template_kwargs": st.dictionaries(TEXT, ANY, max_size=2),
}
FIELDS = sorted({*CompletionBody.__struct_fields__, *ChatBody.__struct_fields__})


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """A prompt, messages, and a few other fields: with more of them no request is good."""
    chosen = draw(st.lists(st.sampled_from(FIELDS), max_size=3))
    guesses = {name: LIKELY.get(name, NUMBER | st.booleans() | ANY) for name in chosen}
    return {
        "prompt": draw(LIKELY["prompt"]),
        "messages": draw(LIKELY["messages"]),
        **{name: draw(guess) for name, guess in guesses.items()},
    }


@pytest.fixture(scope="module")
def tokenizer(model_dir: Path) -> Tokenizer:
    return Tokenizer(read_model_card(model_dir))


@settings(max_examples=400, deadline=None)
@given(bodies(), st.booleans())
def test_it_is_served_or_named(tokenizer: Tokenizer, body: dict[str, Any], chat: bool) -> None:
    content = json.dumps(body).encode()
    try:
        requests = [served(draft, tokenizer) for draft in drafts(content, chat)]
    except InvalidRequest:
        return  # and nothing else
    for request in requests:
        assert 0 < len(request.prompt_tokens) < request.num_tokens <= MAX_MODEL_LEN
        assert msgspec.msgpack.encode(request.sampling)


def drafts(content: bytes, chat: bool) -> list[RequestDraft]:
    if chat:
        return [chat_draft(parse_body(content, ChatBody), HEAD)]
    return completion_drafts(parse_body(content, CompletionBody), HEAD)


def served(draft: RequestDraft, tokenizer: Tokenizer) -> GenerateRequest:
    check_draft(draft, BOUNDS)
    return build_request(draft, tokenize(draft.prompt, tokenizer), BOUNDS, tokenizer)

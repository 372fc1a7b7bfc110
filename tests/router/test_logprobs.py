"""Log-probabilities of completions: keys, bytes and places in the text."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from router.openai.completions import CompletionWriter
from router.openai.logprobs import TextOffsets, completion_logprobs
from router.openai.response_bodies import CompletionLogprobs
from router.openai.response_writer import ResponseOptions
from router.requests.prompts import TextPrompt
from router.requests.request import Delta, Ending, Timing, Usage
from router.text.tokenizer import Tokenizer
from tests.router.families import family_tokenizer
from wire.messages import FinishReason
from wire.sampling import TokenLogprob

pytestmark = pytest.mark.quick

ENDING = Ending(
    finish=FinishReason.LENGTH,
    stop_text=None,
    stop_token=None,
    usage=Usage(prompt_tokens=3, completion_tokens=5, cached_tokens=0),
    timing=Timing(),
    prefill_worker_id="p",
    decode_worker_id="d",
    attempts=1,
)


@pytest.fixture(scope="module")
def llama2(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return family_tokenizer("llama2", tmp_path_factory.mktemp("llama2"))


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return family_tokenizer("qwen2", tmp_path_factory.mktemp("qwen2"))


def told(tokenizer: Tokenizer, ids: list[int], prompt: list[int]) -> CompletionLogprobs:
    offsets = TextOffsets(tokenizer.detokenizer(context=prompt))
    return completion_logprobs(ids, [TokenLogprob(-1.0)] * len(ids), offsets, tokenizer)


def test_a_word_after_a_blank_has_a_key_of_its_own(llama2: Tokenizer) -> None:
    blank, bare = llama2.encode_text("x true", add_special_tokens=False)[-1], token(llama2, "e")
    logprob = TokenLogprob(-0.5, (blank, bare), (-0.5, -2.0))
    made = completion_logprobs([blank], [logprob], TextOffsets(llama2.detokenizer()), llama2)
    assert made.top_logprobs == [{" true": -0.5, "e": -2.0}]
    assert made.tokens == [" true"]


def test_of_two_tokens_with_one_text_the_likelier_is_told(llama2: Tokenizer) -> None:
    letter, byte = token(llama2, "e"), llama2_byte(llama2, ord("e"))
    logprob = TokenLogprob(-0.1, (letter, byte), (-0.1, -9.0))
    made = completion_logprobs([letter], [logprob], TextOffsets(llama2.detokenizer()), llama2)
    assert made.top_logprobs == [{"e": -0.1}]


def test_a_token_that_is_not_among_the_best_is_told_beside_them(llama2: Tokenizer) -> None:
    chosen, best = token(llama2, "e"), token(llama2, "a")
    logprob = TokenLogprob(-5.0, (best,), (-0.1,))
    made = completion_logprobs([chosen], [logprob], TextOffsets(llama2.detokenizer()), llama2)
    assert made.top_logprobs == [{"a": -0.1, "e": -5.0}]


@pytest.mark.parametrize("family", ["llama2", "qwen2"])
def test_offsets_are_places_in_the_text(family: str, request: pytest.FixtureRequest) -> None:
    """Each token's text stands there; the parts of one character share its place."""
    tokenizer: Tokenizer = request.getfixturevalue(family)
    prompt = tokenizer.encode_text("Hello")
    text = " world, it is 好😀 true"
    ids = tokenizer.encode_text("Hello" + text)[len(prompt) :]
    made = told(tokenizer, ids, prompt)
    content, begin = text.encode(), 0
    for token_id, offset in zip(ids, made.text_offset, strict=True):
        whole = content[:begin].decode(errors="ignore")
        assert offset == len(whole)
        begin += len(tokenizer.token_bytes(token_id))
    assert begin == len(content)


def test_tokens_that_leave_no_text_take_no_room(qwen2: Tokenizer) -> None:
    end = qwen2.special_token_id("<|im_end|>")
    assert end is not None
    letter = token(qwen2, "e")
    assert told(qwen2, [letter, end, letter], []).text_offset == [0, 1, 1]


@pytest.mark.parametrize("family", ["llama2", "qwen2"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "streamed"])
def test_after_an_echo_offsets_go_on(
    family: str, whole: bool, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(family)
    prompt = "The capital of France is"
    prompt_ids = tuple(tokenizer.encode_text(prompt))
    ids = tokenizer.encode_text(f"{prompt} Paris.")[len(prompt_ids) :]
    stream = tokenizer.detokenizer(context=prompt_ids)
    scored = tuple(
        TokenLogprob(-float(index), (token,), (-1.0,)) for index, token in enumerate(prompt_ids[1:])
    )
    deltas = [
        Delta(
            text=stream.push(token_id),
            tokens=(token_id,),
            logprobs=(TokenLogprob(-1.0),),
            prompt_tokens=prompt_ids if index == 0 else None,
            prompt_logprobs=scored if index == 0 else (),
        )
        for index, token_id in enumerate(ids)
    ]
    deltas.append(Delta(text="", tokens=(), ending=ENDING))
    form = ResponseOptions(echo=True, logprobs=True, prompts=(TextPrompt(prompt),))
    style = CompletionWriter("r", "tiny", tokenizer, form)
    text, columns = collected(style, deltas, whole=whole)
    assert text == "The capital of France is Paris."
    assert len(columns["tokens"]) == len(prompt_ids) + len(ids)
    assert columns["token_logprobs"][: len(prompt_ids)] == [
        None,
        *(-float(index) for index in range(len(scored))),
    ]
    assert columns["top_logprobs"][0] is None
    assert columns["text_offset"][len(prompt_ids)] == len(prompt)
    for shown, offset in zip(columns["tokens"], columns["text_offset"], strict=True):
        if shown.strip() and not shown.startswith("<"):
            assert text[offset:].lstrip().startswith(shown.lstrip())


def collected(
    style: CompletionWriter, deltas: list[Delta], *, whole: bool
) -> tuple[str, dict[str, list[Any]]]:
    """Text and lists of all choices that the style makes."""
    if whole:
        bodies = [msgspec.to_builtins(style.whole_body(deltas))]
    else:
        events = b"".join(map(style.events, deltas)).split(b"\n\n")
        bodies = [msgspec.json.decode(it.removeprefix(b"data: ")) for it in events if it]
    choices = [choice for body in bodies for choice in body["choices"]]
    columns: dict[str, list[Any]] = {}
    for choice in choices:
        for name, values in (choice["logprobs"] or {}).items():
            columns.setdefault(name, []).extend(values)
    return "".join(choice["text"] for choice in choices), columns


def token(tokenizer: Tokenizer, letter: str) -> int:
    """The last with this text: bytes that tokens fall back to have the first ids."""
    ids = range(600)
    return max(index for index in ids if tokenizer.token_bytes(index) == letter.encode())


def llama2_byte(tokenizer: Tokenizer, byte: int) -> int:
    """The token that falls back to this byte; they follow the three special ones."""
    assert tokenizer.token_bytes(3 + byte) == bytes([byte])
    return 3 + byte

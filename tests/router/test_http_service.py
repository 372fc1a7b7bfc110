"""The HTTP endpoints that generate nothing."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from tests.router.conftest import Stage, StartStage
from tests.router.test_generate import ids
from tests.router.test_http import MESSAGES
from tests.router.test_invalid_requests import http_client
from tests.router.tiny_model import ASSISTANT, BOS, EOS, MAX_MODEL_LEN, USER
from wire.identity import Role


async def test_texts_and_chats_are_tokenized_as_they_would_be_read(
    stage: Stage, backend: Tokenizer
) -> None:
    fox = ids(backend, "the fox")
    cases = [
        ({"prompt": "the fox"}, [BOS, *fox]),
        ({"prompt": "the fox", "add_special_tokens": False}, fox),
        ({"messages": MESSAGES}, [BOS, USER, *fox, EOS, ASSISTANT]),
        ({"messages": MESSAGES, "add_generation_prompt": False}, [BOS, USER, *fox, EOS]),
    ]
    async with http_client(stage) as http:
        for body, tokens in cases:
            response = await http.post("/tokenize", json={"model": "tiny", **body})
            assert response.json() == {
                "count": len(tokens),
                "max_model_len": MAX_MODEL_LEN,
                "tokens": tokens,
                "token_strs": None,
            }
        asked = {"prompt": "the fox", "return_token_strs": True}
        strings = (await http.post("/tokenize", json=asked)).json()["token_strs"]
    assert "".join(strings) == "<|bos|>the fox"


async def test_tokens_become_text_again(stage: Stage, backend: Tokenizer) -> None:
    tokens = [BOS, *ids(backend, "the fox 😀")]
    async with http_client(stage) as http:
        shown = await http.post("/detokenize", json={"tokens": tokens})
        hidden = await http.post(
            "/detokenize", json={"tokens": tokens, "skip_special_tokens": True}
        )
        named = await http.post("/detokenize", json={"tokens": []}, headers={"X-Request-Id": "me"})
    assert shown.json() == {"prompt": "<|bos|>the fox 😀"}
    assert hidden.json() == {"prompt": "the fox 😀"}
    assert named.headers["x-request-id"] == "me"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": MESSAGES, "chat_template": "x"}, "chat_template"),
        ("/tokenize", {"prompt": ["a"]}, "prompt"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [10**6]}, "tokens"),
    ],
)
async def test_what_is_no_text_is_named(
    stage: Stage, path: str, body: dict[str, object], field: str
) -> None:
    async with http_client(stage) as http:
        response = await http.post(path, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == field


async def test_a_body_over_the_limit_is_refused_everywhere(start_stage: StartStage) -> None:
    stage = await start_stage(max_body_bytes=100)
    async with http_client(stage) as http:
        for path in ("/tokenize", "/detokenize"):
            response = await http.post(path, content=b" " * 101)
            assert response.status_code == 413
            assert response.json()["error"]["code"] == "request_too_large"


async def test_probes_find_what_they_ask_for(stage: Stage) -> None:
    async with http_client(stage) as http:
        assert (await http.get("/ping")).status_code == 200
        assert (await http.post("/ping")).status_code == 200
        assert (await http.get("/health")).status_code == 503
        await stage.add("lone", Role.DECODE)
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/version")).json()["version"]
        assert (await http.get("/load")).json() == {"server_load": 0}
        listed = (await http.get("/v1/models")).json()["data"][0]
    assert listed["max_model_len"] == MAX_MODEL_LEN
    assert listed["root"] == "tiny"


@pytest.mark.parametrize("path", ["/metrics", "/health", "/v1/models", "/version"])
async def test_head_tells_what_get_would_without_the_body(stage: Stage, path: str) -> None:
    async with http_client(stage) as http:
        head = await http.head(path)
        get = await http.get(path)
    assert head.status_code == get.status_code
    assert head.headers["content-type"] == get.headers["content-type"]
    assert (head.content, bool(get.content)) == (b"", True)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/embeddings", 404),
        ("POST", "/v1/responses", 404),
        ("POST", "/v1/audio/speech", 404),
        ("POST", "/rerank", 404),
        ("GET", "/tokenize", 405),
        ("DELETE", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
    ],
)
async def test_what_is_not_there_is_refused_in_openais_shape(
    stage: Stage, method: str, path: str, status: int
) -> None:
    async with http_client(stage) as http:
        response = await http.request(method, path, headers={"X-Request-Id": "mine"})
    assert response.status_code == status
    assert response.headers["x-request-id"] == "mine"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert path in error["message"]
    assert status != 405 or response.headers["allow"]


async def test_a_mistake_of_ours_is_told_in_openais_shape(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks() -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(stage.server.conductor.metrics, "expose", breaks)
    async with http_client(stage) as http:
        response = await http.get("/metrics")
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
    assert "ZeroDivisionError" in response.json()["error"]["message"]

"""Compressed request bodies: read as what they stand for, within the limit of any other body."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import AsyncIterator

import httpx2
import pytest

from router.errors import InvalidRequest, TooLarge, UnknownEncoding
from router.http.encoding import decoder
from tests.router.conftest import Stage, StartStage
from tests.router.test_invalid_requests import http_client
from wire.identity import Role

PROMPT = {"prompt": "a", "max_tokens": 9}
BODY = json.dumps(PROMPT).encode()


def raw_deflate(data: bytes) -> bytes:
    squeeze = zlib.compressobj(wbits=-15)
    return squeeze.compress(data) + squeeze.flush()


def _gzip(body: bytes) -> bytes:
    """Without the time of day, of which names of tests must not depend."""
    return gzip.compress(body, mtime=0)


CODED = [
    (b"gzip", _gzip(BODY)),
    (b"X-GZip", _gzip(BODY[:5]) + _gzip(BODY[5:])),
    (b"deflate", zlib.compress(BODY)),
    (b"deflate", raw_deflate(BODY)),
    (b"identity", BODY),
    (b"", BODY),
]


@pytest.mark.quick
@pytest.mark.parametrize(("name", "coded"), CODED)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_pieces_become_the_body(name: bytes, coded: bytes, size: int) -> None:
    reads = decoder(name)
    pieces = [coded[at : at + size] for at in range(0, len(coded), size)]
    assert b"".join(reads.feed(piece, 1000) for piece in pieces) == BODY
    reads.end()


@pytest.mark.quick
@pytest.mark.parametrize("name", [b"gzip", b"deflate"])
def test_a_bomb_is_refused_before_it_unfolds(name: bytes) -> None:
    bomb = _gzip(bytes(10**7)) if name == b"gzip" else zlib.compress(bytes(10**7))
    with pytest.raises(TooLarge):
        decoder(name).feed(bomb, 1000)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "coded"),
    [
        (b"gzip", b"no gzip"),
        (b"gzip", _gzip(BODY) + b"rest"),
        (b"deflate", zlib.compress(BODY) + b"rest"),
        (b"deflate", b"\xff\xff"),
        (b"gzip", _gzip(BODY)[:-1]),
        (b"deflate", zlib.compress(BODY)[:-1]),
    ],
)
def test_damaged_bodies_are_the_clients_mistake(name: bytes, coded: bytes) -> None:
    def read() -> None:
        reads = decoder(name)
        reads.feed(coded, 1000)
        reads.end()

    with pytest.raises(InvalidRequest, match=r"is invalid|continues after|ends within"):
        read()


@pytest.mark.quick
@pytest.mark.parametrize("name", [b"br", b"zstd", b"gzip, gzip"])
def test_other_encodings_are_named_with_those_that_are_read(name: bytes) -> None:
    with pytest.raises(UnknownEncoding, match=f"{name.decode()}.*gzip, deflate"):
        decoder(name)


@pytest.fixture
async def http(start_stage: StartStage) -> AsyncIterator[httpx2.AsyncClient]:
    stage: Stage = await start_stage(max_body_bytes=2000)
    await stage.add("lone", Role.DECODE, script=[65, 66])
    async with http_client(stage) as client:
        yield client


async def test_compressed_requests_are_answered(http: httpx2.AsyncClient) -> None:
    for name, coded in CODED:
        headers = {"content-encoding": name.decode()} if name else {}
        answer = await http.post("/v1/completions", content=coded, headers=headers)
        assert answer.status_code == 200, answer.text
    headers = {"content-encoding": "gzip"}
    answer = await http.post("/tokenize", content=_gzip(BODY), headers=headers)
    assert answer.json() == (await http.post("/tokenize", content=BODY)).json()


async def test_those_that_cannot_be_are_415_413_and_400(http: httpx2.AsyncClient) -> None:
    for path in ("/v1/completions", "/tokenize"):
        answer = await http.post(path, content=BODY, headers={"content-encoding": "br"})
        assert answer.status_code == 415
        assert answer.headers["accept-encoding"] == "gzip, deflate"
        assert answer.json()["error"]["code"] == "unsupported_content_encoding"
        for content, status in ((_gzip(bytes(10**6)), 413), (b"no gzip", 400)):
            answer = await http.post(path, content=content, headers={"content-encoding": "gzip"})
            assert answer.status_code == status

"""X-Tandem-Split: one request asks to be computed on two workers, or not, through either door."""

from __future__ import annotations

import grpc
import pytest

from router.placing.cost_model import Hits
from router.placing.placement_request import Placement, PlacementRequest, Refusal, Split
from tests.router.conftest import Stage
from tests.router.test_invalid_requests import http_client
from wire import inference_pb2 as pb

BODY = {"prompt": "the quick", "max_tokens": 4}


@pytest.fixture
def wishes(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> list[Split]:
    """What placement was asked for, each time."""
    ledger, asked = stage.model.fleet.ledger, list[Split]()
    place = ledger.place

    def noted(need: PlacementRequest, hits: Hits, now: float) -> Placement | Refusal:
        asked.append(need.split)
        return place(need, hits, now)

    monkeypatch.setattr(ledger, "place", noted)
    return asked


@pytest.mark.parametrize("said", ["always", "never", "auto"])
async def test_placement_hears_of_it_through_http(
    stage: Stage, wishes: list[Split], said: str
) -> None:
    await stage.add_pair([5, 6, 7])
    async with http_client(stage) as http:
        answer = await http.post("/v1/completions", json=BODY, headers={"X-Tandem-Split": said})
    assert answer.status_code == 200
    assert set(wishes) == {Split(said)}


async def test_placement_hears_of_it_through_grpc(stage: Stage, wishes: list[Split]) -> None:
    await stage.add_pair([5, 6, 7])
    request = pb.GenerateRequest(text="the quick", max_tokens=4)
    assert [
        it async for it in stage.stub.Generate(request, metadata=[("x-tandem-split", "always")])
    ]
    assert set(wishes) == {Split.ALWAYS}


async def test_without_it_the_router_does_as_it_was_told(stage: Stage, wishes: list[Split]) -> None:
    await stage.add_pair([5, 6, 7])
    async with http_client(stage) as http:
        await http.post("/v1/completions", json=BODY)
    assert set(wishes) == {stage.model.config.split}


async def test_another_word_is_refused_by_the_headers_name(stage: Stage) -> None:
    await stage.add_pair([5])
    async with http_client(stage) as http:
        answer = await http.post("/v1/completions", json=BODY, headers={"X-Tandem-Split": "maybe"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "x-tandem-split"
    assert "auto, always, never" in answer.json()["error"]["message"]
    request = pb.GenerateRequest(text="the quick", max_tokens=4)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        [it async for it in stage.stub.Generate(request, metadata=[("x-tandem-split", "maybe")])]
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT

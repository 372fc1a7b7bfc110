"""Several models in one router: each has its own text side, workers and queue."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from tokenizers import Tokenizer

from kv_transfer.hashing import block_hashes
from router.config import GenerationConfig, RouterConfig, SamplingDefaults, ServedModelConfig
from router.errors import StartError
from router.intake.generation_defaults import GenerationDefaults, generation_defaults
from router.placing.ledger import PromptHashes
from router.placing.placement_request import Split
from router.server import RouterServer
from tests.router.conftest import Stage, StartStage
from tests.router.fake_worker import LAYOUT, FakeWorker
from tests.router.ledgers import COSTS
from tests.router.test_admission_queue import FULL
from tests.router.test_generate import generate, ids, ids_of
from tests.router.test_http import MESSAGES
from tests.router.test_invalid_requests import http_client
from tests.router.test_server import NOT_SERVING, SERVING, health
from tests.router.tiny_model import EOS, MAX_MODEL_LEN, one_model, write_model
from wire import inference_pb2 as pb
from wire.identity import Role
from wire.messages import Submit
from wire.reports import CacheEvents

SHORT_LEN = 100


@pytest.fixture(scope="module")
def other_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that holds less, and whose template says less."""
    directory = write_model(tmp_path_factory.mktemp("models") / "other")
    config = json.loads((directory / "config.json").read_text())
    config["max_position_embeddings"] = SHORT_LEN
    (directory / "config.json").write_text(json.dumps(config))
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    (directory / "chat_template.jinja").write_text(template)
    return directory


@pytest.fixture
def two_models(model_dir: Path, other_dir: Path) -> Callable[..., dict[str, ServedModelConfig]]:
    """Both, the second with settings of its own."""

    def both(**own: Any) -> dict[str, ServedModelConfig]:
        return {**one_model(model_dir), "other": ServedModelConfig(path=str(other_dir), **own)}

    return both


@pytest.fixture
async def stage(
    start_stage: StartStage, two_models: Callable[..., dict[str, ServedModelConfig]]
) -> Stage:
    return await start_stage(models=two_models())


async def add_both(stage: Stage) -> tuple[FakeWorker, FakeWorker]:
    """A worker for each, which answers 65 or 66."""
    tiny = await stage.add("tiny-0", Role.DECODE, script=[65])
    return tiny, await stage.add("other-0", Role.DECODE, script=[66], model="other")


async def refusal(stage: Stage, **fields: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await generate(stage, **fields)
    return refused.value


async def test_each_model_is_answered_by_its_own_workers_through_both_doors(stage: Stage) -> None:
    await add_both(stage)
    assert ids_of(await generate(stage, model="tiny")) == [65, EOS]
    assert ids_of(await generate(stage, model="other", max_tokens=9)) == [66, EOS]
    async with http_client(stage) as http:
        for model, token in (("tiny", 65), ("other", 66)):
            body = {"model": model, "prompt": "a", "return_token_ids": True}
            answer = (await http.post("/v1/completions", json=body)).json()
            assert answer["model"] == model
            assert answer["choices"][0]["token_ids"] == [token, EOS]


async def test_prefill_and_decode_workers_are_paired_within_a_model(stage: Stage) -> None:
    for model in ("tiny", "other"):
        for role in Role:
            await stage.add(f"{model}-{role.value}", role, script=[65, 66], model=model)
    for model in ("tiny", "other"):
        for _ in range(4):
            (*_, last) = await generate(stage, model=model, max_tokens=3)
            assert last.served_by.prefill_worker_id == f"{model}-prefill"
            assert last.served_by.decode_worker_id == f"{model}-decode"


async def test_an_unknown_model_is_not_found_and_those_that_are_served_are_named(
    stage: Stage,
) -> None:
    error = await refusal(stage, model="third")
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "model 'third' is not served here, 'tiny' and 'other' are"
    bodies = {
        "/v1/completions": {"prompt": "a"},
        "/v1/chat/completions": {"messages": MESSAGES},
        "/tokenize": {"prompt": "a"},
        "/detokenize": {"tokens": [65]},
    }
    async with http_client(stage) as http:
        for path, body in bodies.items():
            response = await http.post(path, json={**body, "model": "third"})
            assert response.status_code == 404
            assert response.json()["error"]["code"] == "model_not_found"
            assert "'tiny' and 'other' are" in response.json()["error"]["message"]
        assert (await http.get("/v1/models/third")).status_code == 404


async def test_a_request_that_names_no_model_is_asked_for_one(stage: Stage) -> None:
    error = await refusal(stage)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert error.details() == "name a model: 'tiny' and 'other' are served here"
    async with http_client(stage) as http:
        response = await http.post("/v1/completions", json={"prompt": "a"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "model"


async def test_all_models_are_listed_with_their_lengths_and_whether_they_are_ready(
    stage: Stage,
) -> None:
    await stage.add("other-0", Role.DECODE, model="other")
    listed = (await stage.stub.ListModels(pb.ListModelsRequest())).models
    assert [(it.name, it.max_model_len, it.ready) for it in listed] == [
        ("tiny", MAX_MODEL_LEN, False),
        ("other", SHORT_LEN, True),
    ]
    async with http_client(stage) as http:
        data = (await http.get("/v1/models")).json()["data"]
        single = (await http.get("/v1/models/other")).json()
    lengths = {it["id"]: it["max_model_len"] for it in data}
    assert lengths == {"tiny": MAX_MODEL_LEN, "other": SHORT_LEN}
    assert single["max_model_len"] == SHORT_LEN


async def test_texts_are_tokenized_with_the_template_of_the_model(
    stage: Stage, backend: Tokenizer
) -> None:
    async with http_client(stage) as http:
        for model, tokens in (("tiny", None), ("other", ids(backend, "the fox"))):
            body = {"model": model, "messages": MESSAGES}
            answer = (await http.post("/tokenize", json=body)).json()
            assert (answer["tokens"] == tokens) == (model == "other")
            assert answer["max_model_len"] == (SHORT_LEN if model == "other" else MAX_MODEL_LEN)
    request = pb.TokenizeRequest(text="the fox", model="other")
    assert (await stage.stub.Tokenize(request)).token_ids == backend.encode("the fox").ids


async def test_each_model_has_a_limit_of_its_own(stage: Stage) -> None:
    await add_both(stage)
    error = await refusal(stage, model="other", max_tokens=SHORT_LEN)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"the model's {SHORT_LEN}" in (error.details() or "")
    assert ids_of(await generate(stage, model="tiny", max_tokens=SHORT_LEN)) == [65, EOS]


async def test_equal_tokens_of_two_models_never_meet_in_the_index(stage: Stage) -> None:
    tiny, _ = await add_both(stage)
    tokens = range(100, 112)
    tiny.send(CacheEvents(number=1, stored=tuple(block_hashes(tokens, LAYOUT.block_size))))
    await stage.until(lambda: stage.view(tiny, tokens).num_hit_tokens == 12)
    ledger = stage.server.conductor.models.find("other").fleet.ledger
    assert ledger.hits(tokens, PromptHashes()).either.sum() == 0


async def test_one_model_s_queue_holds_up_no_request_of_another(
    start_stage: StartStage, two_models: Callable[..., dict[str, ServedModelConfig]]
) -> None:
    stage = await start_stage(models=two_models(), max_queued=1, max_waiting=2)
    tiny, other = await add_both(stage)
    models = stage.server.conductor.models
    for worker in (tiny, other):
        worker.report(costs=COSTS)
        await stage.until(lambda w=worker: models.find(w.model).fleet.ledger.calibrated)  # type: ignore[misc]
    tiny.report(costs=COSTS, **FULL)
    await stage.until(lambda: stage.view(tiny).num_queued_tokens > 0)
    waiting = asyncio.create_task(generate(stage, text="a", model="tiny"))
    await stage.until(lambda: len(models.find("tiny").admission_queue) == 1)
    for _ in range(3):
        error = await refusal(stage, text="a", model="tiny", n=2)
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert ids_of(await generate(stage, text="a", model="other", max_tokens=9)) == [66, EOS]
    tiny.report(costs=COSTS)
    assert ids_of(await waiting) == [65, EOS]


async def test_a_model_that_lost_its_workers_leaves_the_other_serving(stage: Stage) -> None:
    tiny, _ = await add_both(stage)
    names = [f"tandem.v1.Inference/{model}" for model in ("tiny", "other")]
    assert [await health(stage, name) for name in names] == [SERVING, SERVING]
    await tiny.die()
    await stage.until(lambda: not stage.model.ready)
    assert (await refusal(stage, model="tiny")).code() is grpc.StatusCode.UNAVAILABLE
    assert ids_of(await generate(stage, model="other", max_tokens=9)) == [66, EOS]
    assert [await health(stage, name) for name in names] == [NOT_SERVING, SERVING]
    assert await health(stage, "") == SERVING
    async with http_client(stage) as http:
        assert (await http.get("/health")).json() == {"status": "ready"}


async def test_one_id_is_never_that_of_two_workers(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    first = await stage.add("same", Role.DECODE, script=[65])
    second = stage.make_worker("same", Role.DECODE, model="other")
    await second.start(stage.addresses.fleet)
    await second.joined.wait()
    assert not stage.server.conductor.models.find("other").ready
    assert f"{second.ref} at {second.address} is refused" in caplog.text
    assert f"{first.ref} of model 'tiny'" in caplog.text
    await first.die()


async def test_what_a_model_has_of_its_own_wins_over_the_router_s(
    start_stage: StartStage, two_models: Callable[..., dict[str, ServedModelConfig]]
) -> None:
    own = {
        "sampling": SamplingDefaults(temperature=0.25, top_k=7),
        "default_max_tokens": 2,
        "split": Split.NEVER,
    }
    stage = await start_stage(models=two_models(**own), default_max_tokens=3)
    tiny, other = await add_both(stage)
    for model, worker in (("tiny", tiny), ("other", other)):
        request = pb.GenerateRequest(text="a", model=model, sampling=pb.Sampling(top_p=0.5))
        async for _ in stage.stub.Generate(request):
            pass
        sampling = (await worker.hears(Submit)).sampling
        ours = (sampling.temperature, sampling.top_k, sampling.max_tokens)
        assert ours == ((0.25, 7, 2) if model == "other" else (1.0, None, 3))
        assert sampling.top_p == 0.5


@pytest.fixture
def own_dir(model_dir: Path, tmp_path: Path) -> Path:
    """A model whose authors say how its tokens are to be chosen."""
    directory = Path(shutil.copytree(model_dir, tmp_path / "own"))
    said = {
        "eos_token_id": [EOS],
        "do_sample": True,
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "repetition_penalty": 1.05,
        "max_new_tokens": 5,
        "min_p": None,
    }
    (directory / "generation_config.json").write_text(json.dumps(said))
    return directory


async def test_the_models_own_sampling_is_the_default(
    start_stage: StartStage, own_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests win over the configuration, and that over the model."""
    own = ServedModelConfig(path=str(own_dir), sampling=SamplingDefaults(top_p=0.5))
    with caplog.at_level(logging.INFO):
        stage = await start_stage(models={"tiny": own})
    assert "temperature 0.6, top_p 0.95, top_k 20" in caplog.text
    assert "generation_config: ignore" in caplog.text
    prefill, _ = await stage.add_pair([65])
    async with http_client(stage) as http:
        await http.post("/v1/completions", json={"prompt": "a", "max_tokens": 100})
        asked = {"prompt": "a", "top_k": -1, "temperature": 0, "repetition_penalty": 1.0}
        await http.post("/v1/completions", json=asked)
        (listed,) = (await http.get("/v1/models")).json()["data"]
    first, second = [(await prefill.hears(Submit, nth)).sampling for nth in (1, 2)]
    assert (first.temperature, first.top_k, first.top_p) == (0.6, 20, 0.5)
    assert (first.repetition_penalty, first.max_tokens) == (1.05, 5)
    assert (second.temperature, second.top_k, second.top_p) == (0, None, 0.5)
    assert second.repetition_penalty == 1.0
    assert listed["sampling_defaults"] == {
        "temperature": 0.6,
        "top_p": 0.5,
        "top_k": 20,
        "repetition_penalty": 1.05,
    }


@pytest.mark.parametrize("of_the_model", [True, False])
async def test_the_models_own_sampling_can_be_switched_off(
    start_stage: StartStage, own_dir: Path, of_the_model: bool
) -> None:
    ignore = GenerationConfig.IGNORE
    own = ServedModelConfig(path=str(own_dir), generation_config=ignore if of_the_model else None)
    router = {} if of_the_model else {"generation_config": ignore}
    stage = await start_stage(models={"tiny": own}, **router)
    prefill, _ = await stage.add_pair([65])
    await generate(stage, max_tokens=100)
    sampling = (await prefill.hears(Submit)).sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (1.0, None, 1.0)
    assert sampling.max_tokens == 100
    assert stage.model.card.eos_token_ids == (EOS,)


def test_what_a_model_says_and_no_request_could_ask_for_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said = {"temperature": 7, "top_k": "all", "top_p": 0, "max_new_tokens": 0, "min_p": 0.1}
    defaults = generation_defaults(said, GenerationConfig.MODEL, "odd")
    assert defaults == GenerationDefaults({"min_p": 0.1})
    for name in ("temperature", "top_k", "top_p", "max_new_tokens"):
        assert f"model odd: generation_config.json: {name} " in caplog.text
    unlimited = {"top_k": -1}
    assert generation_defaults(unlimited, GenerationConfig.MODEL, "m").sampling == {"top_k": 0}


def test_a_router_without_a_model_says_so() -> None:
    with pytest.raises(StartError, match="no model to serve"):
        RouterServer(RouterConfig(models={}))


def test_of_several_models_the_broken_one_is_named(model_dir: Path, tmp_path: Path) -> None:
    models = {**one_model(model_dir), "broken": ServedModelConfig(path=str(tmp_path))}
    with pytest.raises(StartError, match=str(tmp_path)):
        RouterServer(RouterConfig(models=models))


def test_defaults_of_sampling_that_no_request_could_ask_for_are_named(model_dir: Path) -> None:
    sampling = SamplingDefaults(temperature=7)
    models = {"tiny": ServedModelConfig(path=str(model_dir), sampling=sampling)}
    with pytest.raises(StartError, match=r"sampling of model 'tiny': temperature"):
        RouterServer(RouterConfig(models=models))

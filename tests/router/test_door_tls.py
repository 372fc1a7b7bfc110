"""The doors of a whole router over TLS, with and without certificates of clients."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from router.config import RouterConfig
from router.server import RouterServer
from runtime.tls import BadCertificate
from tests.certificates import Authority, remove
from tests.router.conftest import Stage, StartStage
from tests.router.tiny_model import one_model
from wire import inference_pb2 as pb
from wire.identity import Role
from wire.inference_pb2_grpc import InferenceStub


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def clients(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "clients")


def credentials(
    authority: Authority, client: tuple[str, str] | None = None
) -> grpc.ChannelCredentials:
    cert, key = (None, None) if client is None else map(_read, client)
    return grpc.ssl_channel_credentials(authority.file.read_bytes(), key, cert)


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


async def tokens(stage: Stage, credentials: grpc.ChannelCredentials) -> list[int]:
    async with grpc.aio.secure_channel(stage.addresses.grpc, credentials) as channel:
        request = pb.GenerateRequest(text="a", max_tokens=9)
        stream = InferenceStub(channel).Generate(request)
        return [token async for message in stream for token in message.token_ids]


async def refused(stage: Stage, credentials: grpc.ChannelCredentials) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await tokens(stage, credentials)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    return str(caught.value.details())


async def test_grpc_clients_that_trust_the_authority_are_served(
    start_stage: StartStage, authority: Authority, clients: Authority
) -> None:
    stage = await start_stage(door_tls=authority.door())
    await stage.add("lone", Role.DECODE, script=[65, 66])
    assert len(await tokens(stage, credentials(authority))) == 3
    assert "CERTIFICATE_VERIFY_FAILED" in await refused(stage, credentials(clients))
    with pytest.raises(grpc.aio.AioRpcError):
        await stage.stub.ListModels(pb.ListModelsRequest())


async def test_grpc_clients_must_show_a_certificate_of_their_authority(
    start_stage: StartStage, authority: Authority, clients: Authority
) -> None:
    stage = await start_stage(door_tls=authority.door(client_ca=clients.file))
    await stage.add("lone", Role.DECODE, script=[65, 66])
    alice = clients.sign("alice", "alice")
    assert len(await tokens(stage, credentials(authority, alice))) == 3
    await refused(stage, credentials(authority))
    await refused(stage, credentials(authority, authority.sign("wrong", "alice")))


@pytest.mark.parametrize("setting", ["door_tls", "tls"])
async def test_a_missing_certificate_keeps_the_router_from_starting(
    model_dir: Path, authority: Authority, setting: str
) -> None:
    tls = authority.door() if setting == "door_tls" else authority.member()
    remove(tls.cert)
    server = RouterServer(RouterConfig(models=one_model(model_dir), **{setting: tls}))
    with pytest.raises(BadCertificate, match="No such file"):
        await server.start()

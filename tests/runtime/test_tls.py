"""Sessions and announcements between processes that show each other certificates."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import msgspec
import pytest

from runtime.fleet import FleetService, announce
from runtime.listen import bind
from runtime.session import SERVER_OPTIONS, Session, SessionClosed, SessionService, open_session
from runtime.tls import BadCertificate, MutualTls, ServerTls, server_credentials
from tests.certificates import Authority, remove, spoil
from tests.runtime.cards import CARD
from wire.messages import Hello, Welcome, WorkerCard

pytestmark = pytest.mark.quick

HELLO = Hello(caller_id="router")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "theirs")


@asynccontextmanager
async def a_worker(tls: MutualTls | None) -> AsyncIterator[str]:
    """The address of one that welcomes everybody whom TLS lets in."""

    async def greet(hello: Hello, session: Session) -> None:
        session.send(Welcome(card=CARD))
        async for _ in session.messages():
            pass

    async with a_server(SessionService(greet, tls), tls) as address:
        yield address


@asynccontextmanager
async def a_server(service: grpc.GenericRpcHandler, tls: MutualTls | None) -> AsyncIterator[str]:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    server.add_generic_rpc_handlers([service])
    port = bind(server, "127.0.0.1", 0, "port", tls)
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


async def greeting(address: str, tls: MutualTls | None) -> WorkerCard:
    opened = await open_session(address, HELLO, timeout_s=60, tls=tls)
    opened.session.close()
    return opened.card


async def refusal(call: Awaitable[object]) -> str:
    with pytest.raises(SessionClosed) as caught:
        await call
    return str(caught.value)


async def test_two_members_meet_at_any_address(authority: Authority) -> None:
    async with a_worker(authority.member("worker")) as address:
        assert await greeting(address, authority.member("router")) == CARD


async def test_a_member_of_another_authority_is_refused(
    authority: Authority, stranger: Authority
) -> None:
    theirs = msgspec.structs.replace(stranger.member(), ca=str(authority.file))
    async with a_worker(authority.member()) as address:
        assert "failed: failed to connect" in await refusal(greeting(address, theirs))


async def test_a_worker_of_another_authority_is_not_spoken_to(
    authority: Authority, stranger: Authority
) -> None:
    theirs = msgspec.structs.replace(stranger.member(), ca=str(authority.file))
    async with a_worker(theirs) as address:
        assert "CERTIFICATE_VERIFY_FAILED" in await refusal(greeting(address, authority.member()))


async def test_who_shows_no_certificate_is_refused(authority: Authority) -> None:
    async with a_worker(authority.member()) as address:
        credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
        options = [("grpc.ssl_target_name_override", "tandem-internal")]
        async with grpc.aio.secure_channel(address, credentials, options) as channel:
            call = channel.stream_stream("/tandem.internal.v1.Worker/Open")(iter([b""]))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_who_speaks_without_tls_is_refused(authority: Authority) -> None:
    async with a_worker(authority.member()) as address:
        assert address in await refusal(greeting(address, None))


async def test_who_speaks_tls_to_a_worker_without_hears_so(authority: Authority) -> None:
    async with a_worker(None) as address:
        assert address in await refusal(greeting(address, authority.member()))


async def test_a_certificate_of_the_same_authority_for_something_else_opens_nothing(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    member, other = authority.member(), authority.member("other", name="some-web-server")
    async with a_worker(member) as address:
        assert "not for tandem-internal" in await refusal(greeting(address, other))
    async with a_worker(other) as address:
        assert "Hostname Verification" in await refusal(greeting(address, member))
    assert "refused a call" in caplog.text


async def test_replaced_files_hold_for_the_next_connection(authority: Authority) -> None:
    worker, router = authority.member("worker"), authority.member("router")
    async with a_worker(worker) as address:
        await greeting(address, router)
        authority.sign("worker", "not-this-cluster")
        assert "Hostname Verification" in await refusal(greeting(address, router))
        authority.member("worker")
        await greeting(address, router)


async def test_broken_new_files_leave_what_was_read(authority: Authority) -> None:
    worker, router = authority.member("worker"), authority.member("router")
    async with a_worker(worker) as address:
        spoil(worker.cert)
        await greeting(address, router)
        remove(worker.cert)
        await greeting(address, router)


async def test_an_announcement_needs_a_certificate_too_and_the_worker_logs_why(
    authority: Authority, stranger: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    joined: list[WorkerCard] = []
    ours = authority.member()
    theirs = msgspec.structs.replace(stranger.member(), ca=str(authority.file))
    caplog.set_level(logging.WARNING)
    async with a_server(FleetService("router", joined.append, ours), ours) as address:
        assert await _announced(address, theirs) is False
        assert joined == []
        assert f"router {address} cannot be reached" in caplog.text
        assert await _announced(address, ours) is True
    assert joined == [CARD]


async def _announced(address: str, tls: MutualTls) -> bool:
    """How the first try went."""
    result: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    hear: Callable[[bool], None] = lambda ok: result.done() or result.set_result(ok)  # noqa: E731
    announcing = asyncio.create_task(announce(address, lambda: CARD, hear, tls))
    try:
        return await asyncio.wait_for(result, 60)
    finally:
        announcing.cancel()
        await asyncio.gather(announcing, return_exceptions=True)


@pytest.mark.parametrize("field", ["cert", "key", "ca"])
def test_a_file_that_is_not_there_is_named(authority: Authority, field: str) -> None:
    tls = msgspec.structs.replace(authority.member(), **{field: "/no/such.pem"})
    with pytest.raises(BadCertificate, match=r"/no/such.pem.*No such file"):
        server_credentials(tls)


def test_a_key_of_another_certificate_is_named(authority: Authority) -> None:
    tls = authority.door()
    _, other = authority.sign("other", "localhost")
    with pytest.raises(BadCertificate, match=f"cert {tls.cert} with key {other}"):
        server_credentials(ServerTls(cert=tls.cert, key=other))

"""A session: one bidirectional gRPC stream that carries `wire.messages`, the same at either end.

Token traffic goes as one message per engine step, so one stream per pair of processes is enough.
Generic handlers carry msgspec bytes; gRPC brings flow control, deadlines, TLS and fast detection
of a dead peer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc

from runtime.tls import BadCertificate, MutualTls, channel_credentials, is_member
from wire.codec import MAX_MESSAGE_BYTES, BadMessage, decode, encode
from wire.identity import PROTOCOL_VERSION
from wire.messages import Hello, Message, Welcome

METHOD = "/tandem.internal.v1.Worker/Open"
log = logging.getLogger(__name__)
HELLO_S = 5.0
MAX_UNSENT_BYTES = 256 * 1024 * 1024
# A peer whose machine vanished, or whose process was stopped, sends no end: ask it now and then.
KEEPALIVE_OPTIONS = [
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 2000),
    # A process that was stopped finds many pings at once when it goes on; they are no attack.
    ("grpc.http2.max_ping_strikes", 0),
]
CHANNEL_OPTIONS = [
    *KEEPALIVE_OPTIONS,
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Each session owns its connection: the death of one is the death of one peer.
    ("grpc.use_local_subchannel_pool", 1),
    # Proxies from the environment are for the outside world, never between our own processes.
    ("grpc.enable_http_proxy", 0),
]
SERVER_OPTIONS = [
    *KEEPALIVE_OPTIONS,
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # From the connection to the end of its handshakes, TLS and HTTP/2.
    ("grpc.server_handshake_timeout_ms", 10_000),
    # On by default, and then a second server binds the same port without a word.
    ("grpc.so_reuseport", 0),
]


class SessionClosed(ConnectionError):
    """The other end is gone, or this end closed the session; says which and why."""


class Session:
    """Either end of a stream. `send` never blocks; order is kept; after the end it raises."""

    def __init__(self, peer_name: str) -> None:
        self.peer_name = peer_name
        self.closed_because: str | None = None
        self._unsent_bytes = 0
        self._outbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._inbox: asyncio.Queue[Message | None] = asyncio.Queue()
        self._on_close: Callable[[], None] = lambda: None

    def send(self, message: Message) -> None:
        """Raises SessionClosed when the session has ended."""
        if self.closed_because is not None:
            raise SessionClosed(f"session with {self.peer_name}: {self.closed_because}")
        frame = encode(message)
        self._unsent_bytes += len(frame)
        if self._unsent_bytes > MAX_UNSENT_BYTES:
            self.close(f"{self.peer_name} does not read: {self._unsent_bytes} bytes wait for it")
            raise SessionClosed(f"session with {self.peer_name}: {self.closed_because}")
        self._outbox.put_nowait(frame)

    async def receive(self) -> Message:
        """The next message; raises SessionClosed when there will be none."""
        message = await self._inbox.get()
        if message is None:
            self._inbox.put_nowait(None)
            raise SessionClosed(f"session with {self.peer_name}: {self.closed_because}")
        return message

    async def messages(self) -> AsyncIterator[Message]:
        """All messages until the session ends; the end is no error here."""
        try:
            while True:
                yield await self.receive()
        except SessionClosed:
            return

    def close(self, because: str = "closed by this end") -> None:
        """End the session. Idempotent; what has not left yet is dropped."""
        if self.closed_because is None:
            self.closed_because = because
            self._outbox.put_nowait(None)
            self._inbox.put_nowait(None)
            self._on_close()

    async def _frames(self) -> AsyncIterator[bytes]:
        while (frame := await self._outbox.get()) is not None:
            self._unsent_bytes -= len(frame)
            yield frame

    async def _pump(self, frames: AsyncIterator[bytes]) -> None:
        try:
            async for frame in frames:
                self._inbox.put_nowait(decode(frame))
            self.close(f"{self.peer_name} ended the stream")
        except BadMessage as error:
            self.close(f"{self.peer_name} sent nonsense: {error}")
        except grpc.RpcError as error:
            self.close(f"connection to {self.peer_name} broke: {_cause(error)}")


class OpenedSession:
    """A session that this process opened, with the welcome of the worker that answered."""

    def __init__(self, session: Session, welcome: Welcome) -> None:
        self.session = session
        self.card = welcome.card
        self.admissions = welcome.admissions


def open_channel(address: str, tls: MutualTls | None) -> grpc.aio.Channel:
    """To another process of the cluster. Raises BadCertificate."""
    if tls is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    options = [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", tls.name)]
    return grpc.aio.secure_channel(address, channel_credentials(tls), options=options)


async def open_session(
    address: str, hello: Hello, *, timeout_s: float, tls: MutualTls | None = None
) -> OpenedSession:
    """Call a worker at host:port. Raises SessionClosed when it does not answer in `timeout_s`."""
    try:
        channel = open_channel(address, tls)
    except BadCertificate as error:
        raise SessionClosed(f"cannot call {address}: {error}") from error
    session = Session(address)
    session.send(hello)
    call = channel.stream_stream(METHOD)(session._frames())
    tasks = [asyncio.create_task(session._pump(call), name=f"session to {address}")]
    tasks.append(asyncio.create_task(_close_when_done(tasks[0], session, channel)))
    session._on_close = call.cancel
    session._tasks = tasks  # type: ignore[attr-defined]  # keeps them from being collected
    try:
        answer = await asyncio.wait_for(session.receive(), timeout_s)
    except TimeoutError:
        session.close(f"no answer within {timeout_s} s")
        raise SessionClosed(f"{address} gave no answer within {timeout_s} s") from None
    except asyncio.CancelledError:
        session.close("nobody waits for the answer any more")
        raise
    if not isinstance(answer, Welcome):
        session.close("no welcome")
        raise SessionClosed(f"{address} answered {type(answer).__name__} instead of Welcome")
    return OpenedSession(session, answer)


async def _close_when_done(
    pump: asyncio.Task[None], session: Session, channel: grpc.aio.Channel
) -> None:
    await asyncio.wait([pump])
    session.close("closed")
    await channel.close()


class SessionService(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The called side: gives each session to `on_session`.

    `on_session(hello, session)` sends the Welcome, and runs for as long as the session lives; when
    it returns, the session is closed, and when the caller goes, its `messages()` end.
    """

    def __init__(
        self,
        on_session: Callable[[Hello, Session], Awaitable[None]],
        tls: MutualTls | None = None,
    ) -> None:
        self._on_session = on_session
        self._tls = tls

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != METHOD:
            return None
        return grpc.stream_stream_rpc_method_handler(self._open)

    async def _open(
        self, frames: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[bytes]:
        await refuse_strangers(context, self._tls)
        session = Session(context.peer())
        pump = asyncio.create_task(session._pump(frames), name=f"session from {context.peer()}")
        handler = asyncio.create_task(self._greet_and_run(session))
        try:
            async for frame in session._frames():
                yield frame
        finally:
            session.close("the caller is gone")
            pump.cancel()
            await asyncio.wait([handler])
            handler.result()

    async def _greet_and_run(self, session: Session) -> None:
        try:
            async with asyncio.timeout(HELLO_S):
                hello = _checked_hello(await session.receive())
            session.peer_name = hello.caller_id
            await self._on_session(hello, session)
        except (BadMessage, SessionClosed, TimeoutError) as error:
            log.warning("session with %s: %s", session.peer_name, error or "no Hello in time")
        finally:
            session.close("the worker ended the session")


async def refuse_strangers(context: grpc.aio.ServicerContext, tls: MutualTls | None) -> None:
    """Ends a call whose certificate says nothing of this cluster."""
    if not is_member(context, tls):
        assert tls is not None
        cause = f"the certificate that {context.peer()} shows is not for {tls.name}"
        log.warning("a call was refused: %s", cause)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, cause)


def _checked_hello(hello: Message) -> Hello:
    if not isinstance(hello, Hello):
        raise BadMessage(f"a session starts with Hello, not with {type(hello).__name__}")
    if hello.protocol_version != PROTOCOL_VERSION:
        raise BadMessage(
            f"{hello.caller_id} speaks protocol version {hello.protocol_version}, "
            f"this worker speaks {PROTOCOL_VERSION}: run the same release on both"
        )
    return hello


def _cause(error: grpc.RpcError) -> str:
    return str(error.details() or error.code()) if hasattr(error, "details") else str(error)

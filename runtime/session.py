"""Sessions: bidirectional gRPC streams that carry `wire.messages`, symmetric at both ends.

Tokens travel in one message per engine step, so one stream per pair of processes is enough. Generic
handlers carry msgspec bytes; gRPC adds flow control, deadlines, TLS and fast detection of a dead
peer.
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
# A vanished machine or stopped process sends no end of stream: pings detect it.
KEEPALIVE_OPTIONS = [
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 2000),
    # A stopped process that continues finds many pings at once; they are no attack.
    ("grpc.http2.max_ping_strikes", 0),
]
CHANNEL_OPTIONS = [
    *KEEPALIVE_OPTIONS,
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Each session owns its connection, so one broken connection ends one session.
    ("grpc.use_local_subchannel_pool", 1),
    # Proxies from the environment are never used between our own processes.
    ("grpc.enable_http_proxy", 0),
]
SERVER_OPTIONS = [
    *KEEPALIVE_OPTIONS,
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Timeout from the connection to the end of the TLS and HTTP/2 handshakes.
    ("grpc.server_handshake_timeout_ms", 10_000),
    # With the default of 1, a second server could bind the same port without an error.
    ("grpc.so_reuseport", 0),
]


class SessionClosed(ConnectionError):
    """The session has ended; says which end closed it, and why."""


class Session:
    """One end of a stream. `send` never blocks, and keeps the order; after the end it raises."""

    def __init__(self, peer_name: str) -> None:
        self.peer_name = peer_name
        self.closed_because: str | None = None
        self._unsent_bytes = 0
        self._outbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._inbox: asyncio.Queue[Message | None] = asyncio.Queue()
        self._on_close: Callable[[], None] = lambda: None

    def send(self, message: Message) -> None:
        """Queue a message. Raises SessionClosed after the end."""
        if self.closed_because is not None:
            raise SessionClosed(f"session with {self.peer_name}: {self.closed_because}")
        frame = encode(message)
        self._unsent_bytes += len(frame)
        if self._unsent_bytes > MAX_UNSENT_BYTES:
            self.close(f"{self.peer_name} does not read: {self._unsent_bytes} bytes are unsent")
            raise SessionClosed(f"session with {self.peer_name}: {self.closed_because}")
        self._outbox.put_nowait(frame)

    async def receive(self) -> Message:
        """The next message. Raises SessionClosed if there will be none."""
        message = await self._inbox.get()
        if message is None:
            self._inbox.put_nowait(None)
            raise SessionClosed(f"session with {self.peer_name}: {self.closed_because}")
        return message

    async def messages(self) -> AsyncIterator[Message]:
        """All messages until the session ends; the end raises nothing here."""
        try:
            while True:
                yield await self.receive()
        except SessionClosed:
            return

    def close(self, because: str = "closed by this end") -> None:
        """End the session. Idempotent; unsent messages are dropped."""
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
            self.close(f"{self.peer_name} sent an invalid message: {error}")
        except grpc.RpcError as error:
            self.close(f"connection to {self.peer_name} failed: {_cause(error)}")


class OpenedSession:
    """A session opened by this process, with the Welcome of the called worker."""

    def __init__(self, session: Session, welcome: Welcome) -> None:
        self.session = session
        self.card = welcome.card
        self.admissions = welcome.admissions


def open_channel(address: str, tls: MutualTls | None) -> grpc.aio.Channel:
    """A channel to another process of the cluster. Raises BadCertificate."""
    if tls is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    options = [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", tls.name)]
    return grpc.aio.secure_channel(address, channel_credentials(tls), options=options)


async def open_session(
    address: str, hello: Hello, *, timeout_s: float, tls: MutualTls | None = None
) -> OpenedSession:
    """Call a worker at host:port. Raises SessionClosed if it does not answer within `timeout_s`."""
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
        raise SessionClosed(f"{address} did not answer within {timeout_s} s") from None
    except asyncio.CancelledError:
        session.close("the caller was cancelled")
        raise
    if not isinstance(answer, Welcome):
        session.close("no Welcome")
        raise SessionClosed(f"{address} answered {type(answer).__name__} instead of Welcome")
    return OpenedSession(session, answer)


async def _close_when_done(
    pump: asyncio.Task[None], session: Session, channel: grpc.aio.Channel
) -> None:
    await asyncio.wait([pump])
    session.close("closed")
    await channel.close()


class SessionService(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The called side: passes each session to `on_session`.

    `on_session(hello, session)` sends the Welcome, and runs as long as the session lives. When it
    returns, the session is closed; when the caller disconnects, `session.messages()` ends.
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
        await require_member(context, self._tls)
        session = Session(context.peer())
        pump = asyncio.create_task(session._pump(frames), name=f"session from {context.peer()}")
        handler = asyncio.create_task(self._greet_and_run(session))
        try:
            async for frame in session._frames():
                yield frame
        finally:
            session.close("the caller disconnected")
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


async def require_member(context: grpc.aio.ServicerContext, tls: MutualTls | None) -> None:
    """Abort a call whose certificate does not have the cluster's name."""
    if not is_member(context, tls):
        assert tls is not None
        cause = f"the certificate of {context.peer()} is not for {tls.name}"
        log.warning("refused a call: %s", cause)
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, cause)


def _checked_hello(hello: Message) -> Hello:
    if not isinstance(hello, Hello):
        raise BadMessage(f"a session starts with Hello, not with {type(hello).__name__}")
    if hello.protocol_version != PROTOCOL_VERSION:
        raise BadMessage(
            f"{hello.caller_id} has protocol version {hello.protocol_version}, "
            f"this worker has {PROTOCOL_VERSION}: run the same release on both"
        )
    return hello


def _cause(error: grpc.RpcError) -> str:
    return str(error.details() or error.code()) if hasattr(error, "details") else str(error)

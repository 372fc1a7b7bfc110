"""One end of a rank pair over UCX: a worker (UCX's word for a set of connections) and an endpoint.

No other module imports ucxx. Endpoints are made with error handling: without it UCX notices no dead
peer, and a message to one would never end. The price is that UCX then uses TCP even within a host,
and not shared memory, which is several times as fast.
"""

from __future__ import annotations

import os
from typing import Any

from ucxx import exceptions
from ucxx._lib import libucxx as ucx
from ucxx._lib.arr import Array

from kv_transfer.errors import LinkFailed

# The base class of all errors of ucxx has no public name.
UcxError: type[Exception] = exceptions.UCXError.__mro__[1]


def make_context() -> Any:
    """The UCX context that all workers of one thread share."""
    # ucxx sets it when UCX has already read its environment, and UCX then prints a complaint.
    os.environ.pop("UCX_MEMTYPE_CACHE", None)
    return ucx.UCXContext({}, feature_flags=(ucx.Feature.TAG, ucx.Feature.WAKEUP))


class UcxWorker:
    """Sends messages to one peer and receives those with `token`; greetings have their own tag.

    Messages and memory to receive into must live until their request is `completed`, or until the
    worker is destroyed. Errors of a request come from its `check_error`. Not thread-safe.
    """

    def __init__(self, context: Any, token: int) -> None:
        """Raises LinkFailed when no more files can be opened, or when no device is allowed."""
        self._tags = ucx.UCXXTag(token), ucx.UCXXTag(token ^ 1)
        self._endpoint: Any = None
        try:
            self._worker = ucx.UCXWorker(context)
            self._worker.init_blocking_progress_mode()
        except UcxError as error:
            raise LinkFailed(f"no worker: {describe(error)}") from error

    @property
    def fd(self) -> int:
        """Readable when progress can be made, if `arm` has returned true since the last time."""
        return int(self._worker.epoll_file_descriptor)

    @property
    def address(self) -> bytes:
        return bytes(self._worker.address.tobytes())

    @property
    def alive(self) -> bool:
        """Whether there is an endpoint, and no error of it is known."""
        return self._endpoint is not None and bool(self._endpoint.alive)

    def connect(self, address: bytes) -> None:
        """Raises LinkFailed. A dead peer may be noticed only later: nothing is sent yet."""
        self.hang_up()
        try:
            theirs = ucx.UCXAddress.create_from_buffer(address)
            self._endpoint = self._worker.create_endpoint_from_worker_address(
                theirs, endpoint_error_handling=True
            )
        except UcxError as error:
            raise LinkFailed(f"no endpoint: {describe(error)}") from error

    def hang_up(self) -> None:
        """Drop all messages under way, without waiting for the peer.

        A worker is destroyed with the last reference to it, after those to its requests. But ucxx
        never frees a worker (ten files, six megabytes) that was sending when it hung up.
        """
        if self._endpoint is not None:
            self._endpoint.close_blocking()
            self._worker.progress()  # ends the requests, which would keep the worker alive
            self._endpoint = None

    def send(self, message: Any, *, greeting: bool = False) -> Any:
        """Start sending an array to the peer; returns a request. Raises UcxError."""
        return self._endpoint.tag_send(Array(message), self._tags[greeting])

    def receive(self, memory: Any, *, greeting: bool = False) -> Any:
        """Start receiving one message of at most the array's size; returns a request."""
        return self._worker.tag_recv(Array(memory), self._tags[greeting])

    def progress(self) -> None:
        self._worker.progress()

    def arm(self) -> bool:
        """Whether `fd` becomes readable by the next event. If not, there was one: make progress."""
        return bool(self._worker.arm())


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"

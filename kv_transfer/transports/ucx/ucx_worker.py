"""One end of one link over UCX: a worker (UCX's word for a set of connections) and an endpoint.

Nobody else imports ucxx. Endpoints are made with error handling, because without it UCX notices no
dead peer, and a message to one would never end. The price: UCX then uses TCP even between
neighbours, and not their shared memory, which is several times as fast.
"""

from __future__ import annotations

import os
from typing import Any

from ucxx import exceptions
from ucxx._lib import libucxx as ucx
from ucxx._lib.arr import Array

from kv_transfer.errors import LinkFailed

# The class that all errors of ucxx derive from has no public name.
UcxError: type[Exception] = exceptions.UCXError.__mro__[1]


def make_context() -> Any:
    """What workers of one thread share."""
    # ucxx sets it when UCX has already read its environment, and UCX then prints a complaint.
    os.environ.pop("UCX_MEMTYPE_CACHE", None)
    return ucx.UCXContext({}, feature_flags=(ucx.Feature.TAG, ucx.Feature.WAKEUP))


class UcxWorker:
    """Messages carry `token`, or else they are not received; a greeting is told from the others.

    Messages and memory to receive into must live until their request is `completed`, or until the
    worker is gone. Errors of a request come from its `check_error`. Not for two threads at once.
    """

    def __init__(self, context: Any, token: int) -> None:
        """Raises LinkFailed when there are no more files, or no device that is allowed."""
        self._tags = ucx.UCXXTag(token), ucx.UCXXTag(token ^ 1)
        self._endpoint: Any = None
        try:
            self._worker = ucx.UCXWorker(context)
            self._worker.init_blocking_progress_mode()
        except UcxError as error:
            raise LinkFailed(f"no worker: {describe(error)}") from error

    @property
    def fd(self) -> int:
        """Readable when there is something to do, if `arm` has been called since the last time."""
        return int(self._worker.epoll_file_descriptor)

    @property
    def address(self) -> bytes:
        return bytes(self._worker.address.tobytes())

    @property
    def alive(self) -> bool:
        """Whether there is an endpoint, and no error of it is known."""
        return self._endpoint is not None and bool(self._endpoint.alive)

    def connect(self, address: bytes) -> None:
        """Raises LinkFailed. A dead peer may show only later: nothing is sent yet."""
        self.hang_up()
        try:
            theirs = ucx.UCXAddress.create_from_buffer(address)
            self._endpoint = self._worker.create_endpoint_from_worker_address(
                theirs, endpoint_error_handling=True
            )
        except UcxError as error:
            raise LinkFailed(f"no endpoint: {describe(error)}") from error

    def hang_up(self) -> None:
        """Drop what is under way, and wait for nobody.

        A worker is destroyed with the last reference to it, after those to its requests. But ucxx
        never frees one (ten files, six megabytes) that was sending when it was hung up.
        """
        if self._endpoint is not None:
            self._endpoint.close_blocking()
            self._worker.progress()  # ends the requests, which would keep the worker alive
            self._endpoint = None

    def send(self, message: Any, *, greeting: bool = False) -> Any:
        """Start sending an array to the peer; returns a request. Raises UcxError."""
        return self._endpoint.tag_send(Array(message), self._tags[greeting])

    def receive(self, memory: Any, *, greeting: bool = False) -> Any:
        """Wait for one message of at most the array's size; returns a request."""
        return self._worker.tag_recv(Array(memory), self._tags[greeting])

    def progress(self) -> None:
        self._worker.progress()

    def arm(self) -> bool:
        """Whether `fd` tells of the next event. If not, there has been one: make progress."""
        return bool(self._worker.arm())


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"

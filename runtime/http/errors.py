"""What ends an HTTP connection because of what its client sent."""

from __future__ import annotations


class BadRequest(Exception):
    """The bytes are no request that could be answered otherwise; `status` says so to the client."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status

"""Errors for invalid HTTP requests."""

from __future__ import annotations


class BadRequest(Exception):
    """The request is invalid or not supported; `status` is that of the response."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status

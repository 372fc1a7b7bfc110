"""How ranks of one worker speak to each other, as those need it who do."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

import msgspec

T = TypeVar("T", bound=msgspec.Struct)

Reply = Callable[[msgspec.Struct], None]
"""From any thread, once; of a message that wants no answer it does nothing."""
Handler = Callable[[Any, Reply], None]
"""Of a message in the rank that was called. It must not block; the reply may come later."""


class Calls(Protocol):
    """Another rank is spoken to in order, from any thread."""

    def call(self, message: msgspec.Struct, answer_type: type[T], /) -> Future[T]:
        """The future fails when the rank is dead, or could not do it."""
        ...

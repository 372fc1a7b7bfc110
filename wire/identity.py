"""Who speaks: workers fenced by their incarnation, and the attempt of a request's journey."""

from __future__ import annotations

import enum
import secrets

import msgspec

PROTOCOL_VERSION = 7
"""Version of every message in `wire/`.

1: first release
2: offers carry tokens and layouts, links are admitted one by one, attempts end with their session
3: answers may have to follow a grammar
4: workers count what they have done, and say where a sequence came from
5: workers may have several ranks, and links a rank pair for each two of them
6: answers that must follow a grammar may begin with a thought
7: messages name their attempt by attempt_id, and carry a request's traits as one; a worker's card
   tells how its policy schedules
"""


class Role(enum.Enum):
    """The pool a worker was started for. A role is policy: both kinds host the same engine."""

    PREFILL = "prefill"
    DECODE = "decode"


class WorkerRef(msgspec.Struct, frozen=True):
    """One life of one worker. What belongs to another incarnation is stale and is dropped."""

    worker_id: str
    incarnation: int

    def __str__(self) -> str:
        return f"{self.worker_id}#{self.incarnation:x}"


class ProcessRef(msgspec.Struct, frozen=True):
    """Where a process runs. On equal hosts processes see each other's pids, and perhaps memory."""

    host: str
    pid: int


class AttemptId(msgspec.Struct, frozen=True):
    """One attempt at serving one request; the router numbers the attempts."""

    request_id: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.request_id}/{self.number}"


def draw_incarnation() -> int:
    """A fresh number for this process start; 63 bits, so that no two starts ever share one."""
    return secrets.randbits(63)

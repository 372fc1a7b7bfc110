"""Identities: roles, workers with their incarnation, processes, and attempts at a request."""

from __future__ import annotations

import enum
import secrets

import msgspec

PROTOCOL_VERSION = 8
"""Version of every message in `wire/`.

1: first release
2: offers carry tokens and layouts, links are admitted one by one, attempts end with their session
3: answers may follow a grammar
4: workers report totals, and the source of a handoff
5: workers may have several ranks, and links a rank pair for each two of them
6: answers that follow a grammar may begin with a thought
7: messages name their attempt by attempt_id, and carry a request's traits as one; a worker's card
   describes its scheduling policy
"""


class Role(enum.Enum):
    """The pool a worker belongs to. A role is a scheduling policy; both run the same engine."""

    PREFILL = "prefill"
    DECODE = "decode"


class WorkerRef(msgspec.Struct, frozen=True):
    """One incarnation of a worker. Messages of another incarnation are stale, and are dropped."""

    worker_id: str
    incarnation: int

    def __str__(self) -> str:
        return f"{self.worker_id}#{self.incarnation:x}"


class ProcessRef(msgspec.Struct, frozen=True):
    """The host and pid of a process: on equal hosts processes may share memory."""

    host: str
    pid: int


class AttemptId(msgspec.Struct, frozen=True):
    """One attempt at serving one request; the router numbers the attempts."""

    request_id: str
    number: int = 0

    def __str__(self) -> str:
        return f"{self.request_id}/{self.number}"


def draw_incarnation() -> int:
    """A random number for this process start; 63 bits, so that no two starts ever share one."""
    return secrets.randbits(63)

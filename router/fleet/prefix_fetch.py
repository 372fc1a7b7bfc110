"""Copies a cached prefix from another worker to the one that will prefill."""

from __future__ import annotations

import asyncio

from router.fleet.mailbox import Mailbox
from router.fleet.member import Member
from runtime.session import SessionClosed
from wire.handoff import Moved
from wire.messages import CopyPrefix, Handed, Released


async def fetch_prefix(
    share: CopyPrefix, source: Member, target: Member, wait_s: float
) -> Moved | None:
    """Copy the prefix; returns None if that fails or takes longer than `wait_s`.

    A failed copy is cancelled, and the worker computes the prefix instead.
    """
    mailbox = Mailbox()
    ends = (source, target)
    for member in ends:
        member.attach(share.attempt_id, mailbox)
    moved = None
    try:
        source.send(share)
        async with asyncio.timeout(wait_s):
            moved = await _outcome(mailbox)
    except (SessionClosed, TimeoutError):
        return None
    finally:
        for member in ends:
            if moved is None:
                member.cancel(share.attempt_id)
            member.detach(share.attempt_id)
    return moved


async def _outcome(mailbox: Mailbox) -> Moved | None:
    while True:
        for _, news in await mailbox.take():
            if isinstance(news, Handed):
                return news.moved
            if not isinstance(news, Released):  # Kept, Failed, or one of the workers is lost
                return None

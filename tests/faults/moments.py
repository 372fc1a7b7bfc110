"""SIGKILL and SIGSTOP, to any rank, at random moments of real transfers between processes."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

from runtime.session import Session
from tests.faults.scene import Scene
from tests.faults.victim import Victim
from wire.identity import AttemptId, Role
from wire.messages import Destination, Failed, Handed, Kept, Message, StepOutputs, Submit
from wire.sampling import SamplingParams

WHOLE_IN_S = 60.0
"""All deadlines of the settings, one after the other, with room for a busy machine."""
NEVER_WAKES = 0.5
"""How often a rank that is not the worker's first stands still until it is ended."""
NUM_NEW_TOKENS = 3
GREEDY = SamplingParams(max_tokens=NUM_NEW_TOKENS, temperature=0.0, ignore_eos=True)


@dataclass
class Findings:
    """What happened, by kind; `problems` has what must not."""

    seen: Counter[str] = field(default_factory=Counter)
    whole_s: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Moments:
    """The worker of one role survives what befalls the other."""

    def __init__(self, victim_role: Role, scene: Scene, seed: int) -> None:
        self._victim_role = victim_role
        self._scene = scene
        self._draw = random.Random(seed)
        self._survivor_role = Role.DECODE if victim_role is Role.PREFILL else Role.PREFILL
        self._victim: Victim | None = None
        self._span_s = 0.0
        self._num_legs = 0
        self._heard: list[Message] = []
        self._more = asyncio.Event()
        self.findings = Findings()

    async def run(self, num_moments: int) -> Findings:
        self._survivor = self._scene.survivor(self._survivor_role)
        await self._survivor.start()
        for number in range(num_moments):
            victim = await self._living_victim()
            rank = -(1 + number // 2) % len(victim.ranks)  # in turn, the last one first
            await self._one_moment(victim, rank, stop=bool(number % 2))
        if self._victim is not None:
            await self._bury(self._victim)
        await self._survivor.worker.stop()
        return self.findings

    async def _living_victim(self) -> Victim:
        if self._victim is None:
            settings = self._scene.settings(self._victim_role)
            self._victim = await Victim.start(self._victim_role, settings)
            await self._check_next_handoff("of a new process")
            asking = asyncio.create_task(self._ask(self._scene.num_prompt_tokens))
            await self._until_blocks_are_held(asking)
            started = time.monotonic()
            await asking
            self._span_s = time.monotonic() - started
        return self._victim

    async def _one_moment(self, victim: Victim, rank: int, *, stop: bool) -> None:
        asking = asyncio.create_task(self._ask(self._scene.num_prompt_tokens))
        await self._until_blocks_are_held(asking)
        await asyncio.sleep(self._draw.uniform(0, self._span_s))  # the moment is the experiment
        blow = signal.SIGSTOP if stop else signal.SIGKILL
        victim.strike(rank, blow)
        which = f"rank {rank} of the" if len(victim.ranks) > 1 else "the"
        what = f"{blow.name} of {which} {self._victim_role.value} worker"
        self.findings.seen[what] += 1
        try:
            if not stop:
                await asyncio.wait_for(victim.end(), WHOLE_IN_S)
            await self._see_it_through(victim, rank, what, stop=stop)
        except TimeoutError:
            self.findings.problems.append(f"{what}: not over in {WHOLE_IN_S} s")
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await self._check_next_handoff(f"after {what}")

    async def _until_blocks_are_held(self, asking: asyncio.Task[str]) -> None:
        while await self._survivor.is_whole() and not asking.done():
            pass

    async def _see_it_through(self, victim: Victim, rank: int, what: str, *, stop: bool) -> None:
        survivor, findings = self._survivor, self.findings
        started = time.monotonic()
        findings.seen["blocks were held then"] += not await survivor.is_whole()
        await survivor.until_whole(WHOLE_IN_S)
        findings.whole_s.append(time.monotonic() - started)
        blocks = await survivor.occupy()
        if stop and rank and self._draw.random() < NEVER_WAKES:
            await asyncio.wait_for(victim.end(), WHOLE_IN_S)
        woke = stop and await victim.wake(rank, WHOLE_IN_S)
        if await survivor.is_changed(blocks):
            findings.problems.append(f"{what}: what the next owner wrote was changed")
        if survivor.crashed.done():
            findings.problems.append(f"{what}: the survivor crashed: {survivor.crashed.result()}")
        if not woke:
            findings.seen["ended while stopped"] += stop
            await self._bury(victim)
            self._victim = None

    async def _bury(self, victim: Victim) -> None:
        await victim.kill()
        for pid in await asyncio.to_thread(victim.left_behind, WHOLE_IN_S):
            self.findings.problems.append(f"process {pid} outlives its worker")

    async def _check_next_handoff(self, when: str) -> None:
        if self._victim is None:
            return
        try:
            heard = await asyncio.wait_for(self._ask(100), WHOLE_IN_S)
        except TimeoutError:
            self.findings.problems.append(f"no handoff in {WHOLE_IN_S} s {when}")
            return
        self.findings.seen["next handoffs"] += heard == "Handed"
        if heard != "Handed":
            self.findings.problems.append(f"the next handoff {when} ended with {heard}")

    async def _ask(self, num_tokens: int) -> str:
        """Hand one sequence over; how that ended, after its whole answer."""
        assert self._victim is not None
        self._num_legs += 1
        self._heard.clear()
        attempt_id, prompt = (
            AttemptId(f"r{self._num_legs}"),
            [self._num_legs, *range(1, num_tokens)],
        )
        prefill, decode, destination = self._ends()
        prefill.send(
            Submit(
                attempt_id=attempt_id,
                tokens=tuple(prompt),
                num_prompt=num_tokens,
                sampling=GREEDY,
                destination=destination,
            )
        )
        ears = [asyncio.create_task(self._listen(session)) for session in (prefill, decode)]
        try:
            heard = await self._until_heard(attempt_id)
            tokens = await self._until_answered(attempt_id, num_tokens)
        finally:
            for ear in ears:
                ear.cancel()
        return heard if self._scene.is_right(prompt, tokens) else f"wrong tokens {tokens}"

    async def _listen(self, session: Session) -> None:
        async for message in session.messages():
            self._heard.append(message)
            self._more.set()

    async def _until_heard(self, attempt_id: AttemptId) -> str:
        while True:
            for message in self._heard:
                if isinstance(message, Handed | Kept | Failed) and message.attempt_id == attempt_id:
                    cause = getattr(message, "cause", "")
                    return type(message).__name__ + (f" ({cause})" if cause else "")
            await self._next_message()

    async def _until_answered(self, attempt_id: AttemptId, num_prompt: int) -> list[int]:
        while True:
            tokens: dict[int, int] = {}
            steps = [message for message in self._heard if isinstance(message, StepOutputs)]
            for output in (output for step in steps for output in step.outputs):
                if output.attempt_id == attempt_id:
                    tokens.update(enumerate(output.tokens, output.position))
            if len(tokens) == NUM_NEW_TOKENS:
                return [tokens[position] for position in sorted(tokens)]
            await self._next_message()

    async def _next_message(self) -> None:
        self._more.clear()
        await self._more.wait()

    def _ends(self) -> tuple[Session, Session, Destination]:
        """Router's sessions with the prefill and the decode worker, and where the latter is."""
        assert self._victim is not None
        ours, theirs = self._survivor.session, self._victim.opened.session
        if self._victim_role is Role.PREFILL:
            card = self._survivor.worker.card
            return theirs, ours, Destination(card.ref, card.address)
        card = self._victim.opened.card
        return ours, theirs, Destination(card.ref, card.address)

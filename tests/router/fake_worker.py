"""A worker without an engine: it joins, answers and dies like a real one, by a script.

The first worker makes the first token, the destination the others, so that the tokens of an answer
tell who made them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

import grpc

from decode_worker.scheduler import DecodePolicy
from runtime.fleet import announce
from runtime.session import SERVER_OPTIONS, Session, SessionClosed, SessionService
from tests.router.tiny_model import EOS, MAX_MODEL_LEN
from wire.handoff import Moved
from wire.identity import AttemptId, ProcessRef, Role, WorkerRef, draw_incarnation
from wire.layout import KvLayout
from wire.messages import (
    Cancel,
    FinishReason,
    Handed,
    Hello,
    Message,
    Output,
    Prefilled,
    Released,
    StepOutputs,
    Submit,
    WantSnapshot,
    Welcome,
    WorkerCard,
)
from wire.reports import CacheEvents, Report, WorkerState
from wire.sampling import TokenLogprob

LAYOUT = KvLayout(num_layers=1, num_kv_heads=1, head_size=4, block_size=4, dtype="float32")
AnyMessage = TypeVar("AnyMessage", bound=Message)


class FakeWorker:
    """`peers` are the workers it can hand sequences to, by id; `script` is what it answers.

    Assign `serve` to replace how it answers; `hold_after` makes it wait for `release` once an
    answer has that many tokens.
    """

    def __init__(
        self,
        worker_id: str,
        role: Role,
        *,
        peers: dict[str, FakeWorker],
        script: Sequence[int] = (),
        model: str = "tiny",
        model_hash: str = "hash",
        content: str = "same",
        max_model_len: int = MAX_MODEL_LEN,
        tokenizer: str | None = None,
        started_at: float = 0.0,
    ) -> None:
        self.ref = WorkerRef(worker_id, draw_incarnation())
        self.role = role
        self.script = list(script)
        self.model = model
        self.model_hash = model_hash
        self.content = content
        self.max_model_len = max_model_len
        self.tokenizer = tokenizer
        self.started_at = started_at
        self.answers: asyncio.Queue[str | None] = asyncio.Queue()
        """What the router said to each announcement: why it does not take the worker, or None."""
        self.cache = CacheEvents(number=0, snapshot=True)
        self.hold_after: int | None = None
        self.release = asyncio.Event()
        self.joined = asyncio.Event()
        self.num_sent = 0
        self.received: list[Message] = []
        self.serve: Callable[[Submit], object] = self.serve_script
        self._heard = asyncio.Condition()
        self._sessions: list[Session] = []
        self.tasks: dict[AttemptId, asyncio.Task[None]] = {}
        self._peers = peers
        peers[worker_id] = self

    @property
    def card(self) -> WorkerCard:
        return WorkerCard(
            ref=self.ref,
            role=self.role,
            address=self.address,
            model=self.model,
            model_hash=self.model_hash,
            layout=LAYOUT,
            content=self.content,
            num_blocks=1000,
            max_model_len=self.max_model_len,
            policies={role: DecodePolicy().traits for role in Role},
            transport="memory",
            process=ProcessRef("host", 1),
            tokenizer=self.tokenizer,
            started_at=self.started_at,
        )

    async def start(self, fleet_address: str) -> None:
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        service = SessionService(self._on_session)
        self._server.add_generic_rpc_handlers([service])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        self._announcing = asyncio.create_task(
            announce(
                fleet_address,
                lambda: self.card,
                self._on_announced,
                on_refused=self.answers.put_nowait,
            )
        )

    async def die(self) -> None:
        """At once, with all its connections."""
        self._announcing.cancel()
        for task in self.tasks.values():
            task.cancel()
        for session in self._sessions:
            session.close("died")
        await self._server.stop(0)

    def send(self, message: Message) -> None:
        for session in self._sessions:
            session.send(message)

    def report(self, state: WorkerState = WorkerState.READY, **load: int) -> None:
        empty = dict.fromkeys(("num_running", "num_waiting", "waiting_tokens"), 0)
        self.send(Report(state=state, free_blocks=1000, num_blocks=1000, **{**empty, **load}))

    async def hears(self, kind: type[AnyMessage], nth: int = 1) -> AnyMessage:
        """The `nth` message of this kind; waits for it."""
        async with asyncio.timeout(60), self._heard:
            await self._heard.wait_for(lambda: self.count(kind) >= nth)
        return [message for message in self.received if isinstance(message, kind)][nth - 1]

    def count(self, kind: type[Message]) -> int:
        return sum(isinstance(message, kind) for message in self.received)

    async def serve_script(self, submit: Submit) -> None:
        """What a healthy worker does."""
        self.send(
            Prefilled(attempt_id=submit.attempt_id, queue_s=0.1, prefill_s=0.2, cached_tokens=4)
        )
        answer = self.answer(submit)
        if submit.destination is None or len(answer) == 1:
            await self.make_tokens(submit, answer)
            return
        self.send(StepOutputs(outputs=(answer[0],)))
        await self.hand_over(submit, answer)

    async def hand_over(self, submit: Submit, answer: Sequence[Output]) -> None:
        assert submit.destination is not None
        destination = self._peers[submit.destination.ref.worker_id]
        destination.take_over(submit, answer, self.ref)
        self.send(Released(attempt_id=submit.attempt_id))

    def take_over(self, submit: Submit, answer: Sequence[Output], source: WorkerRef) -> None:
        moved = Moved(
            num_blocks=3,
            skipped_blocks=1,
            num_bytes=3 * LAYOUT.block_bytes,
            transfer_s=0.3,
            exposed_s=0.05,
        )
        self.send(Handed(attempt_id=submit.attempt_id, source=source, moved=moved))
        self._run(submit.attempt_id, self.make_tokens(submit, answer))

    def answer(self, submit: Submit) -> list[Output]:
        """One output per token, of those that the client does not have yet."""
        wanted = submit.sampling.max_tokens
        tokens = [*self.script[:wanted]] if len(self.script) >= wanted else [*self.script, EOS]
        finish = FinishReason.STOP if tokens[-1] == EOS else FinishReason.LENGTH
        logprobs = submit.sampling.logprobs
        outputs = [
            Output(
                attempt_id=submit.attempt_id,
                position=submit.num_prompt + index,
                tokens=(token,),
                logprobs=() if logprobs is None else (fake_logprob(token, logprobs),),
                finish=finish if index == len(tokens) - 1 else None,
                stop_token=EOS if token == EOS else None,
                prompt_logprobs=fake_scores(submit) if index == 0 else (),
            )
            for index, token in enumerate(tokens)
        ]
        return outputs[len(submit.tokens) - submit.num_prompt :]

    async def make_tokens(self, submit: Submit, answer: Sequence[Output]) -> None:
        for output in answer:
            if output.position - submit.num_prompt == self.hold_after:
                await self.release.wait()
            self.send(StepOutputs(outputs=(output,)))
            self.num_sent += 1
            await asyncio.sleep(0)  # a step is a message of its own

    def _on_announced(self, success: bool) -> None:
        if success:
            self.joined.set()

    async def _on_session(self, hello: Hello, session: Session) -> None:
        session.send(Welcome(card=self.card))
        self._sessions.append(session)
        self.report()
        async for message in session.messages():
            self._take(message)
            async with self._heard:
                self.received.append(message)
                self._heard.notify_all()
        self._sessions.remove(session)

    def _take(self, message: Message) -> None:
        match message:
            case Submit():
                self._run(message.attempt_id, self.serve(message))
            case Cancel():
                self._cancel(message.attempt_id)
            case WantSnapshot():
                self.send(self.cache)

    def _run(self, attempt_id: AttemptId, work: object) -> None:
        if asyncio.iscoroutine(work):
            self.tasks[attempt_id] = asyncio.create_task(self._guarded(work))

    async def _guarded(self, work: object) -> None:
        with suppress(SessionClosed):
            await work  # type: ignore[misc]

    def _cancel(self, attempt_id: AttemptId) -> None:
        task = self.tasks.pop(attempt_id, None)
        if task is not None:
            task.cancel()


def fake_scores(submit: Submit) -> tuple[TokenLogprob, ...]:
    """Of the prompt's tokens but the first, where they are asked for."""
    count = submit.sampling.prompt_logprobs
    prompt = submit.tokens[1 : submit.num_prompt]
    return () if count is None else tuple(fake_logprob(token, count) for token in prompt)


def fake_logprob(token: int, num_top: int) -> TokenLogprob:
    """Made of the token, so that a test can tell it."""
    tops = tuple(range(token, token + num_top))
    return TokenLogprob(-token / 100, tops, tuple(-top / 100 for top in tops))

"""A worker as a process: `python -m prefill_worker` and `python -m decode_worker`."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Annotated

import msgspec
import typer

from engine.errors import EngineError
from runtime.descriptors import raise_descriptor_limit
from runtime.listen import PortTaken
from runtime.logs import LogLevel, start_logging
from runtime.process import (
    UntilStdinEnds,
    exit_with_error,
    freeze_loaded_objects,
    print_ready,
    stop_when_stdin_ends,
)
from runtime.signals import stop_signal
from runtime.tls import BadCertificate
from wire.identity import Role
from wire.messages import WorkerCard
from worker.build import MakePolicies
from worker.config import RunnerKind, WorkerConfig
from worker.host import Worker
from worker.progress import Quarters
from worker.standstill import end_when_held_up

log = logging.getLogger("tandem.start")


def make_app(role: Role, make_policies: MakePolicies) -> typer.Typer:
    """The command line of one role, in which the worker begins."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @app.command(help=f"Start one {role.value} worker and announce it to routers.")
    def main(
        model: Annotated[str, typer.Option(help="Hugging Face model directory.")],
        router: Annotated[
            list[str] | None, typer.Option(help="Fleet address of a router; may be repeated.")
        ] = None,
        name: Annotated[str | None, typer.Option(help="Name the model is served under.")] = None,
        worker_id: Annotated[str | None, typer.Option(help="Drawn when not given.")] = None,
        host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
        port: Annotated[int, typer.Option(help="0 takes any free port.")] = 0,
        runner: Annotated[
            RunnerKind, typer.Option(help="What computes the tokens.")
        ] = RunnerKind.TORCH,
        settings: Annotated[
            str, typer.Option(help="Further settings of WorkerConfig, as JSON.")
        ] = "{}",
        log_level: LogLevel = "info",
        until_stdin_ends: UntilStdinEnds = False,
    ) -> None:
        given = {
            "model": model,
            "routers": tuple(router or ()),
            "model_name": name,
            "worker_id": worker_id,
            "host": host,
            "port": port,
            "runner": runner.value,
        }
        try:
            config = msgspec.convert({**given, **msgspec.json.decode(settings)}, WorkerConfig)
        except (msgspec.DecodeError, TypeError) as error:
            exit_with_error(f"--settings: {error}")
        start_logging(log_level, hide_messages=True)
        raise_descriptor_limit()
        if until_stdin_ends:
            stop_when_stdin_ends()
        sys.exit(asyncio.run(run(config, role, make_policies)))

    return app


async def run(config: WorkerConfig, role: Role, make_policies: MakePolicies) -> int:
    """Serve until SIGTERM or SIGINT, then drain; returns the exit status."""
    stopping: asyncio.Task[object] = asyncio.create_task(stop_signal())
    crashed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    worker = Worker(
        config, role, make_policies, on_crash=crashed.set_result, progress=Quarters(log.info).loaded
    )
    starting = asyncio.create_task(worker.start())
    await asyncio.wait((stopping, starting), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        os._exit(0)  # nothing to save, and a thread that loads weights cannot be interrupted
    try:
        card = starting.result()
    except (EngineError, PortTaken, BadCertificate) as error:
        exit_with_error(str(error))
    freeze_loaded_objects()
    announcing = asyncio.create_task(_say_ready(worker, card))
    watching = asyncio.create_task(end_when_held_up(config.step_timeout_s))
    crash: asyncio.Task[object] = asyncio.create_task(_result(crashed))
    await asyncio.wait((stopping, crash), return_when=asyncio.FIRST_COMPLETED)
    announcing.cancel()
    if crash.done():
        os._exit(1)  # every router and peer sees the connections break; a thread may hang for ever
    await worker.drain(config.drain_timeout_s)
    await worker.stop()
    watching.cancel()
    return 0


async def _say_ready(worker: Worker, card: WorkerCard) -> None:
    """Write one line of JSON when the worker can get work: at once, if no router was named."""
    if worker.config.routers:
        await worker.joined.wait()
    ready = {"worker": str(card.ref), "address": card.address}
    if card.metrics_address is not None:
        ready["metrics"] = card.metrics_address
    print_ready(ready)


async def _result(future: asyncio.Future[Exception]) -> Exception:
    return await future

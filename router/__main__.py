"""`python -m router --model DIR`: one router process.

When it is ready it prints one line of JSON with its addresses. SIGTERM and SIGINT drain it; a
second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer
import uvloop

from router.config import RouterConfig
from router.errors import StartError
from router.server import RouterServer
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

NEW_OBJECTS = 20_000
"""Threshold of the garbage collector in new objects. A request keeps hundreds alive as long as it
lives: with Python's default of 700 the collector used a tenth of the CPU time in vain."""
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(help="Start one router: clients use its gRPC and HTTP ports, workers its fleet port.")
def main(
    model: Annotated[str | None, typer.Option(help="Hugging Face model directory.")] = None,
    name: Annotated[str | None, typer.Option(help="Name the model is served under.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    grpc_port: Annotated[int, typer.Option(help="0 takes any free port.")] = 0,
    http_port: Annotated[int, typer.Option(help="0 takes any free port.")] = 0,
    fleet_port: Annotated[
        int, typer.Option(help="Port for workers' announcements; 0 takes any free port.")
    ] = 0,
    settings: Annotated[
        str, typer.Option(help="Further settings of RouterConfig, as JSON.")
    ] = "{}",
    log_level: LogLevel = "info",
    until_stdin_ends: UntilStdinEnds = False,
) -> None:
    given = {
        "models": {} if model is None else {name or Path(model).resolve().name: {"path": model}},
        "host": host,
        "grpc_port": grpc_port,
        "http_port": http_port,
        "fleet_port": fleet_port,
    }
    try:
        further = msgspec.json.decode(settings)
        if model is not None and "models" in further:
            exit_with_error(
                "--model names a model, and so does models in --settings: leave one out"
            )
        config = msgspec.convert({**given, **further}, RouterConfig)
    except (msgspec.DecodeError, TypeError) as error:
        exit_with_error(f"--model, --settings: {error}")
    # Prompts are tokenized one at a time: the library's thread pool would only be woken for each.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    start_logging(log_level, hide_messages=True)
    raise_descriptor_limit()
    if until_stdin_ends:
        stop_when_stdin_ends()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config))


async def _serve(config: RouterConfig) -> None:
    stopping = asyncio.create_task(stop_signal())
    try:
        server = RouterServer(config)
        addresses = await server.start()
    except (StartError, PortTaken, BadCertificate) as error:
        exit_with_error(str(error))
    freeze_loaded_objects()
    gc.set_threshold(NEW_OBJECTS)
    print_ready(addresses)
    await stopping
    drain = asyncio.create_task(server.drain(config.drain_timeout_s))
    again = asyncio.create_task(stop_signal())
    await asyncio.wait((drain, again), return_when=asyncio.FIRST_COMPLETED)
    for task in (drain, again):
        task.cancel()
    await server.stop()


if __name__ == "__main__":
    app()

"""The command `tandem status`: what a cluster's workers do, and where its bottleneck is."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
import typer
from rich.live import Live

from cluster.console import TolerantConsole
from cluster.error_line import reporting_errors
from cluster.router_client import RouterClient
from cluster.status_view import status_view

DEFAULT_URL = "http://127.0.0.1:8000"

Url = Annotated[
    str, typer.Option(help="Address of a router's HTTP or admin port: a URL, host:port or a port.")
]
Key = Annotated[
    str | None,
    typer.Option(envvar="TANDEM_API_KEY", help="API key with `admin: true`, if keys are required."),
]
Ca = Annotated[
    str | None,
    typer.Option(help="File of trusted certificates for https, instead of the system's."),
]
Json = Annotated[bool, typer.Option("--json", help="One line of JSON instead of tables.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Show it again and again.")]
Interval = Annotated[float, typer.Option(min=0.1, help="Seconds between two looks of --watch.")]


def status(
    url: Url = DEFAULT_URL,
    key: Key = None,
    ca: Ca = None,
    as_json: Json = False,
    watch: Watch = False,
    interval: Interval = 2.0,
) -> None:
    """Show what the workers do, which stage binds, and what one more worker would give."""
    with reporting_errors():
        try:
            client = RouterClient(url, key, ca)
            if as_json:
                _print_json(client, watch, interval)
            else:
                _print_tables(client, watch, interval)
        except KeyboardInterrupt:
            raise typer.Exit from None  # the way to end --watch


def _print_json(client: RouterClient, watch: bool, interval: float) -> None:
    typer.echo(msgspec.json.encode(client.status()).decode())
    while watch:
        time.sleep(interval)
        typer.echo(msgspec.json.encode(client.status()).decode())


def _print_tables(client: RouterClient, watch: bool, interval: float) -> None:
    console = TolerantConsole(highlight=False)
    view = status_view(client.status())
    if not watch:
        console.print(view)
        return
    with Live(view, console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while True:
            time.sleep(interval)
            live.update(status_view(client.status()), refresh=True)

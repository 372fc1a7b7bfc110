"""The commands of `tandem`: up, demo, status, simulate, plan and key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from cluster.config import ClusterConfig, load_config, parse_override
from cluster.console import TolerantConsole
from cluster.error_line import reporting_errors
from cluster.errors import BadConfig
from cluster.keys import keys_app
from cluster.launcher import Launcher
from cluster.plan import plan
from cluster.ray_address import check_that_ray_answers, ray_address
from cluster.running import RunningCluster, running
from cluster.simulate import simulate
from cluster.status import status
from cluster.stop_signal import StopSignal
from cluster.watched_file import WatchedFile
from runtime.address import LOOPBACK, join_address, reachable, split_address
from runtime.installed_version import installed_version

WATCH_S = 1.0
DEFAULT_PROMPT = "Write a function that returns the lines of a text."

app = typer.Typer(
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Serve a language model on two pools of workers, prefill and decode.",
)
app.add_typer(keys_app, name="key")
app.command()(status)
app.command()(simulate)
app.command()(plan)
console = TolerantConsole(highlight=False, soft_wrap=True)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"tandem {installed_version()}")
        raise typer.Exit


@app.callback()
def _general(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show it and exit.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Serve a language model on two pools of workers, prefill and decode."""


ConfigFile = Annotated[
    str | None, typer.Option("--config", "-c", help="YAML file; without one, the bundled model.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a key: --set prefill.replicas=2. May be repeated."),
]
Model = Annotated[
    str | None,
    typer.Option(help="Hugging Face model directory, or a name on the hub: org/name[@revision]."),
]
RayAddress = Annotated[str | None, typer.Option(help="Address of a running Ray cluster.")]
Host = Annotated[
    str | None,
    typer.Option(help="Address at which clients reach it; 0.0.0.0 or :: for all. Else 127.0.0.1."),
]
HttpPort = Annotated[int | None, typer.Option(help="0 takes any free port.")]
Keys = Annotated[str | None, typer.Option(help="File of API keys; see `tandem key new`.")]
GrpcPort = Annotated[int | None, typer.Option(help="0 takes any free port.")]
Reload = Annotated[
    bool,
    typer.Option(
        "--reload",
        help="Read the file again when it changes, and add, drain or replace workers accordingly.",
    ),
]
WithoutRay = Annotated[
    bool, typer.Option("--without-ray", help="Plain processes on this machine instead of Ray.")
]


@app.command()
def up(
    config: ConfigFile = None,
    overrides: Overrides = None,
    model: Model = None,
    ray_address: RayAddress = None,
    host: Host = None,
    http_port: HttpPort = None,
    grpc_port: GrpcPort = None,
    keys: Keys = None,
    without_ray: WithoutRay = False,
    reload: Reload = False,
) -> None:
    """Start a cluster in the foreground; Ctrl-C or SIGTERM drains and stops it."""
    with reporting_errors():
        options = {
            "model": model,
            "ray.address": ray_address,
            "router.host": host,
            "router.http_port": http_port,
            "router.grpc_port": grpc_port,
            "router.keys_file": keys,
        }
        file = _watched_file(config, overrides, options) if reload else None
        settings = _load(config, overrides, options)
        for name, model_config in settings.models.items():
            console.print(f"serving [bold]{name}[/] from {model_config.path}")
        launcher = _launcher(settings, without_ray)
        stop = StopSignal()  # after the launcher, since Ray installs a handler when it connects
        with running(settings, launcher, console.print) as cluster:
            stop.wait(0)  # a reader of "ready" may send the signal at once
            _print_ready(cluster)
            while not stop.wait(WATCH_S):
                cluster.watch()
                if file is not None:
                    _reload(file, cluster)
            console.print("draining: no new requests; those under way may end")
    console.print("stopped")


@app.command()
def demo(
    prompt: Annotated[str, typer.Argument(help="What to ask the bundled model.")] = DEFAULT_PROMPT,
    config: ConfigFile = None,
    overrides: Overrides = None,
    without_ray: WithoutRay = False,
) -> None:
    """Start a cluster, stream one chat, show what each stage took, stop."""
    from cluster.demo import check_no_auth, run_demo  # other commands need not import gRPC's stubs

    with reporting_errors():
        settings = _load(config, overrides, {})
        check_no_auth(settings)
        launcher = _launcher(settings, without_ray)
        StopSignal()
        with running(settings, launcher, console.print) as cluster:
            run_demo(cluster, prompt, console)
    console.print("stopped")


def _load(
    path: str | None,
    overrides: list[str] | None,
    options: Mapping[str, object],
) -> ClusterConfig:
    return load_config(path, _values(overrides, options))


def _values(overrides: list[str] | None, options: Mapping[str, object]) -> dict[str, object]:
    """The overrides by key. Options such as `--model` win over `--set`."""
    values = {key: value for key, value in options.items() if value is not None}
    return {**dict(map(parse_override, overrides or [])), **values}


def _watched_file(
    path: str | None, overrides: list[str] | None, options: Mapping[str, object]
) -> WatchedFile:
    if path is None:
        raise BadConfig("--reload reads a configuration file again: name one with -c")
    return WatchedFile(path, _values(overrides, options))


def _reload(file: WatchedFile, cluster: RunningCluster) -> None:
    """Apply a changed file to the cluster; an invalid file changes nothing."""
    try:
        config = file.changed()
    except BadConfig as error:
        console.print(f"the change is refused: {error}", markup=False)
        return
    if config is not None:
        cluster.change(config)


def _launcher(config: ClusterConfig, without_ray: bool) -> Launcher:
    if without_ray:
        from cluster.process_launcher import ProcessLauncher

        processes = ProcessLauncher()
        _print_warnings(processes.warnings(config))
        return processes
    address = ray_address(config)
    console.print(f"starting on Ray at {address or 'this machine'}")
    if address is not None:
        check_that_ray_answers(address)
    from cluster.ray_launcher import RayLauncher  # importing Ray takes a second

    launcher = RayLauncher(config)
    _print_warnings(launcher.warnings())
    return launcher


def _print_warnings(warnings: list[str]) -> None:
    for warning in warnings:
        console.print(f"[bold yellow]warning[/] {warning}")


def _print_ready(cluster: RunningCluster) -> None:
    if cluster.config.num_routers == 0:
        console.print("[bold green]ready[/]   clients go to the routers that worker.routers names")
        return
    _print_warnings(cluster.warnings())
    router = cluster.config.router
    scheme = "http" if router.door_tls is None else "https"
    host, port = split_address(cluster.addresses.http)
    url = f"{scheme}://{join_address(reachable(host, LOOPBACK), port)}/v1/chat/completions"
    key = "" if router.keys_file is None else " -H 'Authorization: Bearer KEY'"
    model = next(iter(cluster.config.models))
    console.print(f"[bold green]ready[/]   grpc {cluster.addresses.grpc}   Ctrl-C stops; try:")
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "def add(a, b):"}}]}}'
    curl = f"  curl {url}{key} -H 'Content-Type: application/json' -d '{body}'"
    console.print(curl, markup=False)

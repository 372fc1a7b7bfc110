"""The command `tandem key`: creates API keys. A key is shown once; only its hash is stored."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cluster.errors import BadConfig
from router.access.keys import check_name, generate_key, read_keys

keys_app = typer.Typer(no_args_is_help=True, help="API keys for the doors of a router.")


@keys_app.callback()
def _commands() -> None:
    """Make `new` a subcommand."""


@keys_app.command()
def new(
    name: Annotated[str, typer.Argument(help="Whose key it is; shown in logs and to workers.")],
    file: Annotated[
        Path | None, typer.Option(help="Add it to this file, and print nothing but the key.")
    ] = None,
) -> None:
    """Create an API key. It is shown only once; the file stores its hash."""
    try:
        check_name(name)
        key, line = _draw(name)
        if file is not None:
            _add(file, name, line)
    except (BadConfig, ValueError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    if file is not None:
        typer.echo(key)
        return
    typer.echo(f"the key of {name}, shown this once:\n  {key}")
    typer.echo(f"the line for the file of keys:\n  {line}")


def _draw(name: str) -> tuple[str, str]:
    key, hashed = generate_key()
    return key, f"{name}: {hashed}"


def _add(file: Path, name: str, line: str) -> None:
    """Append the line to the file, readable only by its owner.

    Raises BadConfig if the file is not a key file or has that name already.
    """
    before = ""
    if file.exists():
        if name in read_keys(str(file)).names:
            raise BadConfig(f"{file} has a key of {name}: to replace it, list both under `hash`")
        before = file.read_text().rstrip("\n") + "\n"
    other = file.with_name(file.name + ".new")
    descriptor = os.open(other, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as output:
        output.write(before + line + "\n")
    os.replace(other, file)

"""Network namespaces as hosts: each has an address on one bridge, and no other way out."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

INTERFACE = "eth0"


@dataclass(frozen=True)
class Host:
    """A namespace; `port` is the bridge's end of its cable, in the namespace of the test."""

    name: str
    address: str
    port: str

    def command(self, *arguments: str) -> list[str]:
        """The same command, on this host."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def command_with_own(self, folder: Path, *arguments: str) -> list[str]:
        """The same command, on this host, whose processes see an empty `folder` of their own."""
        own = folder.with_name(self.name)
        for each in (folder, own):
            each.mkdir(exist_ok=True)
        mount = 'mount --bind "$0" "$1" && shift && exec "$@"'
        return self.command("sh", "-c", mount, str(own), str(folder), *arguments)

    def received_bytes(self) -> int:
        """What TCP has delivered here from other hosts over the connections that it has now.

        Without headers, and without what was lost and sent again: how much those add depends
        on how the kernel cuts packets, which on a busy machine are small and many.
        """
        told = subprocess.run(
            self.command("ss", "-tinHO", "state", "established"),
            capture_output=True,
            text=True,
            check=True,
        )
        return sum(self._received_by(line) for line in told.stdout.splitlines())

    def _received_by(self, connection: str) -> int:
        """0 for one that does not leave this host."""
        peer = connection.split()[3].rpartition(":")[0].strip("[]").removeprefix("::ffff:")
        found = re.search(r" bytes_received:(\d+)", connection)
        is_here = peer in (self.address, "127.0.0.1", "::1")
        return 0 if found is None or is_here else int(found.group(1))

    def process_ids(self) -> set[int]:
        told = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True
        )
        return set(map(int, told.stdout.split()))


@cache
def why_not() -> str | None:
    """What keeps this machine from having any; None where it may."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ss") is None:
        return "`ss` (iproute2) counts what crosses them"
    try:
        with hosts(1):
            return None
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no network namespaces here: {getattr(error, 'stderr', None) or error}"


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """At most 200 hosts. Whatever runs in them is killed at the end."""
    number = os.getpid() % 250
    bridge, network = f"tdmbr{number}", f"10.231.{number}"
    made = [
        Host(f"tandem-{number}-{n}", f"{network}.{n}", f"tdm{number}p{n}")
        for n in range(1, count + 1)
    ]
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{network}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for host in made:
            _plug_in(host, bridge)
        yield made
    finally:
        for host in made:
            _remove(host)
        _ip("link", "del", bridge, check=False)


def _plug_in(host: Host, bridge: str) -> None:
    _ip("netns", "add", host.name)
    peer = ("peer", "name", INTERFACE, "netns", host.name)
    _ip("link", "add", host.port, "type", "veth", *peer)
    _ip("link", "set", host.port, "master", bridge, "up")
    _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", INTERFACE)
    for device in (INTERFACE, "lo"):
        _ip("-n", host.name, "link", "set", device, "up")


def _remove(host: Host) -> None:
    if not Path(f"/var/run/netns/{host.name}").exists():
        return
    deadline = time.monotonic() + 60
    while (left := host.process_ids()) and time.monotonic() < deadline:
        for process_id in left:
            try:
                os.kill(process_id, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)
    _ip("netns", "del", host.name, check=False)
    _ip("link", "del", host.port, check=False)


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run(["ip", *arguments], check=check, capture_output=True, text=True)

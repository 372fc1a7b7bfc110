"""Makes NIXL agents over one backend, whose threads sleep while nothing happens."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kv_transfer.errors import TransferError
from kv_transfer.transports.nixl.bindings import nixl_api, nixl_bindings

PROGRESS_DELAY_US = 5000
"""How long an idle agent sleeps; events of the fabric wake it. With 0, NIXL's default, it spins."""

NIXL_ERRORS = tuple(kind for name, kind in vars(nixl_bindings).items() if name.endswith("Error"))
"""Every error of the bindings ends in nixl…Error and derives from Exception alone."""

_MEMORY = {"DRAM_SEG", "VRAM_SEG"}


@dataclass(frozen=True, slots=True)
class NixlBackend:
    """The plugin by which NIXL transfers bytes, with the plugin's own `options`.

    With `telemetry`, NIXL times every write. That costs 0.4 us, and reading the time 1.4 us; and
    each agent has one more thread that sleeps.
    """

    name: str = "UCX"
    options: Mapping[str, str] = field(default_factory=dict)
    telemetry: bool = False


UCX = NixlBackend()


def make_agent(name: str, backend: NixlBackend) -> Any:
    """Raises TransferError for a backend that is missing, or that transfers to storage only."""
    agent = _bare_agent(name, backend)
    _check(agent, backend.name)
    try:
        agent.create_backend(backend.name, dict(backend.options))
    except NIXL_ERRORS as error:
        options = f"options {dict(backend.options)}" if backend.options else "no options"
        raise TransferError(
            f"NIXL cannot make backend {backend.name!r} with {options} ({described(error)}); "
            f"the log says more; its defaults are {agent.get_plugin_params(backend.name)}"
        ) from error
    return agent


def described(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _check(agent: Any, backend: str) -> None:
    """Raises TransferError unless the backend transfers between memories, and nothing else."""
    offered = sorted(agent.get_plugin_list())
    if backend not in offered:
        raise TransferError(
            f"NIXL has no backend {backend!r}, only {', '.join(offered)}: take 'UCX', or name the "
            f"folder of libplugin_{backend}.so in NIXL_PLUGIN_DIR"
        )
    try:
        _, kinds = agent.agent.getPluginParams(backend)
    except NIXL_ERRORS as error:
        raise TransferError(
            f"NIXL has a backend {backend!r} but cannot load it ({described(error)}): take 'UCX', "
            "or install the libraries that it needs; NIXL_LOG_LEVEL=INFO names them"
        ) from error
    if not _MEMORY.issuperset(kinds):
        raise TransferError(
            f"NIXL's backend {backend!r} carries between {' and '.join(sorted(kinds))}, not from "
            f"one worker's memory to another's: of {', '.join(offered)}, take 'UCX' (or "
            "'LIBFABRIC', where its libraries are installed)"
        )


def _bare_agent(name: str, backend: NixlBackend) -> Any:
    _log_to_standard_error()
    config = nixl_api.nixl_agent_config(
        backends=[],
        capture_telemetry=backend.telemetry,
        sync_mode=nixl_api.nixl_thread_sync_t.NIXL_THREAD_SYNC_STRICT,
    )
    original = nixl_api.nixlBind
    nixl_api.nixlBind = _SleepingBindings(original)
    try:
        return nixl_api.nixl_agent(name, config)
    finally:
        nixl_api.nixlBind = original


def _log_to_standard_error() -> None:
    """NIXL's wrapper logs to standard output, where its lines would mix with results."""
    logger = logging.getLogger("nixl")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.WARNING)


class _SleepingBindings:
    """The bindings, which make agents whose progress thread sleeps between events."""

    def __init__(self, bindings: Any) -> None:
        self._bindings = bindings

    def nixlAgent(self, name: str, config: Any) -> Any:
        config.pthrDelay = PROGRESS_DELAY_US
        return self._bindings.nixlAgent(name, config)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bindings, name)

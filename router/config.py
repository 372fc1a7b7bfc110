"""The router's settings, with defaults that work on a laptop."""

from __future__ import annotations

import msgspec

MIB = 1024 * 1024


class RouterConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Port 0 means any free port; the addresses are known after `RouterServer.start`."""

    model_dir: str
    """A Hugging Face model directory: tokenizer, chat template and config are read, weights not."""
    model: str | None = None
    """Name under which clients and workers know the model; the directory's name when None."""
    host: str = "127.0.0.1"
    grpc_port: int = 0
    http_port: int = 0
    fleet_port: int = 0
    """Where workers announce themselves."""
    share_ports: bool = False
    """Whether other routers on this machine may listen on the same ports for clients."""

    max_message_bytes: int = 4 * MIB
    """Largest gRPC request."""
    max_body_bytes: int = 10 * MIB
    """Largest HTTP request."""
    max_waiting: int = 1024
    """Most requests that are in the router at a time; more are refused, with a time to return."""
    default_max_tokens: int = 256
    """Length of an answer when the client names none; less when the context has no room."""
    request_timeout_s: float = 600.0
    """Longest time for a request, whatever the client's own deadline."""
    max_attempts: int = 3
    """How often a request is placed before its failure is the client's to see."""
    join_wait_s: float = 1.0
    """How long a request waits for a worker that can serve it."""
    open_timeout_s: float = 5.0
    """How long a worker that announced itself may take to answer."""
    report_wait_s: float = 0.2
    """How long the last message waits for workers to report what their stages took."""
    fetch_min_tokens: int = 256
    """How many more tokens of a prompt another worker must have cached, for its blocks to be copied
    to the worker that is to prefill: the next turn of a conversation finds what was decoded."""
    fetch_wait_s: float = 2.0
    """How long such a copy may take; then the tokens are computed instead."""
    index_max_entries: int = 1_000_000
    """Most (block, worker) pairs that the prefix index remembers."""

"""The command `tandem demo`: streams one chat through a fresh cluster, then prints a table of its
latency."""

from __future__ import annotations

import inspect
import textwrap

import grpc
from rich.console import Console
from rich.table import Table

from cluster.config import ClusterConfig
from cluster.errors import BadConfig
from cluster.running import RunningCluster
from wire import inference_pb2 as pb
from wire import inference_pb2_grpc as rpc

MAX_TOKENS = 160
NUM_CONTEXT_LINES = 40
TIMEOUT_S = 120.0


def check_no_auth(config: ClusterConfig) -> None:
    """Raises BadConfig if the public servers need a key or TLS, which the demo does not have."""
    if config.router.keys_file is not None or config.router.door_tls is not None:
        raise BadConfig(
            "the demo has no key and no certificate: leave out router.keys_file and "
            "router.door_tls, or use `tandem up`"
        )


def run_demo(cluster: RunningCluster, prompt: str, console: Console) -> None:
    """Stream the answer to `prompt`, preceded by some lines of code as context, and print the
    table."""
    with grpc.insecure_channel(cluster.addresses.grpc) as channel:
        stub = rpc.InferenceStub(channel)  # type: ignore[no-untyped-call]
        console.print(f"\n[bold]you[/]    ({NUM_CONTEXT_LINES} lines of textwrap.dedent)")
        console.print(f"       {prompt}", markup=False)
        console.print("[bold]model[/]")
        last = _stream(stub, _chat(prompt, next(iter(cluster.config.models))), console)
    console.print("\n")
    console.print(_table(last, console))


def _chat(prompt: str, model: str) -> pb.GenerateRequest:
    """A request whose context makes the prompt long enough for several prefill chunks and
    transfers."""
    context = inspect.getsource(textwrap.dedent).splitlines()[:NUM_CONTEXT_LINES]
    content = "\n".join(["Here is some code.", "", *context, "", prompt])
    return pb.GenerateRequest(
        model=model,
        chat=pb.Chat(messages=[pb.ChatMessage(role="user", content=content)]),
        max_tokens=MAX_TOKENS,
        sampling=pb.Sampling(temperature=0.5, top_p=0.9, seed=2),
    )


def _stream(
    stub: rpc.InferenceStub, request: pb.GenerateRequest, console: Console
) -> pb.GenerateResponse:
    response = pb.GenerateResponse()
    for response in stub.Generate(request, timeout=TIMEOUT_S):
        console.print(response.text, end="", markup=False)
    return response


def _table(last: pb.GenerateResponse, console: Console) -> Table:
    timing, usage, served = last.timing, last.usage, last.served_by
    table = Table(title=f"{usage.prompt_tokens} tokens in, {usage.completion_tokens} out")
    for column in ("stage", "time", "what happened"):
        table.add_column(column)
    table.add_row("queue", _ms(timing.queue_s), f"on {served.prefill_worker_id}")
    cached = f"{usage.cached_tokens} of {usage.prompt_tokens} tokens were cached"
    table.add_row("prefill", _ms(timing.prefill_s), cached)
    table.add_row("transfer", *_transfer(timing.transfer))
    table.add_row("decode", _ms(timing.decode_s), f"on {served.decode_worker_id}")
    table.add_row("TTFT", _ms(timing.ttft_s), "request to first token")
    table.add_row("TPOT", _ms(timing.tpot_s), "each token after it")
    return table


def _transfer(transfer: pb.Transfer) -> tuple[str, str]:
    seconds = transfer.transfer_s
    rate = transfer.num_bytes / seconds / 1e9 if seconds else 0.0
    hidden = 100 * transfer.hidden_s / seconds if seconds else 0.0
    return _ms(seconds), (
        f"{transfer.num_bytes / 1e6:.2f} MB in {transfer.num_blocks} blocks, {rate:.2f} GB/s, "
        f"{hidden:.0f} % hidden behind prefill"
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"

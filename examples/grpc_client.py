"""Streams one answer over gRPC, token by token.

    python examples/grpc_client.py --target 127.0.0.1:8001 "def add(a, b):"

`wire.inference_pb2` and `wire.inference_pb2_grpc` are the stubs that `make proto` generates from
proto/tandem/v1/inference.proto; for other languages, generate theirs from that file.
"""

from __future__ import annotations

import argparse
import sys

import grpc

from wire import inference_pb2 as pb
from wire import inference_pb2_grpc as rpc

DEADLINE_S = 60.0


def stream(stub: rpc.InferenceStub, prompt: str, max_tokens: int) -> pb.GenerateResponse:
    """Print the answer as it arrives; return the last message, which says how it ended."""
    message = pb.ChatMessage(role="user", content=prompt)
    request = pb.GenerateRequest(chat=pb.Chat(messages=[message]), max_tokens=max_tokens)
    last = pb.GenerateResponse()
    for last in stub.Generate(request, timeout=DEADLINE_S):
        print(last.text, end="", flush=True)
    return last


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument("--target", default="127.0.0.1:8001", help="host:port of router.grpc_port")
    parser.add_argument("--max-tokens", type=int, default=64)
    options = parser.parse_args()
    with grpc.insecure_channel(options.target) as channel:
        try:
            last = stream(rpc.InferenceStub(channel), options.prompt, options.max_tokens)
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
            return 1
    reason, workers = pb.FinishReason.Name(last.finish_reason), last.served_by
    print(f"\n{last.usage.completion_tokens} tokens, {reason}")
    print(f"prefilled by {workers.prefill_worker_id}, decoded by {workers.decode_worker_id}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

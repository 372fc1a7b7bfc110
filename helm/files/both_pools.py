"""Proves that the deployment serves: its model is listed, and one request uses both pools.

Left to itself the router splits where that pays, which it need not do for a lone request. So each
request asks for it, until one has been read by one worker and answered by another, with KV bytes
moved in between.
"""

import json
import os
import ssl
import sys
import time
import urllib.request

import grpc

from wire import inference_pb2 as pb
from wire import inference_pb2_grpc as rpc

NUM_WORDS = 32
PAUSE_S = 1.0
PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


def main(environ):
    deadline = time.monotonic() + float(environ["TANDEM_TIMEOUT_S"])
    model = environ["TANDEM_MODEL"]
    names = models(environ)
    if model not in names:
        return f"the model {model!r} is not among those served: {names}"
    say(f"models: {names}")
    with channel(environ) as connection:
        stub = rpc.InferenceStub(connection)
        return try_prompts(stub, model, metadata(environ), deadline)


def try_prompts(stub, model, headers, deadline):
    """None when a request used both pools, or what happened instead."""
    attempt, seen = 0, "nothing"
    while time.monotonic() < deadline:
        attempt += 1
        try:
            last = generate(stub, model, headers, attempt, deadline)
        except grpc.RpcError as error:
            seen = f"{error.code().name}: {error.details()}"
            if error.code() not in PASSING:
                return f"the request failed: {seen}"
        else:
            by, moved = last.served_by, last.timing.transfer.num_bytes
            seen = f"read by {by.prefill_worker_id}, answered by {by.decode_worker_id}"
            say(f"{seen}; {moved} KV bytes moved")
            if by.prefill_worker_id != by.decode_worker_id and moved > 0:
                return None
        time.sleep(PAUSE_S)
    return f"no request used both pools; the last: {seen}"


def generate(stub, model, headers, attempt, deadline):
    """The last message of an answer to a prompt that no cache knows."""
    begun = int(time.time()) % 100_000
    text = " ".join(f"w{begun}x{attempt}x{index}" for index in range(NUM_WORDS))
    request = pb.GenerateRequest(model=model, text=text, max_tokens=8)
    left_s = max(1.0, deadline - time.monotonic())
    return list(stub.Generate(request, metadata=headers, timeout=left_s))[-1]


def models(environ):
    request = urllib.request.Request(environ["TANDEM_HTTP"] + "/v1/models")
    if key := environ.get("TANDEM_API_KEY"):
        request.add_header("Authorization", f"Bearer {key}")
    context = None
    if ca := environ.get("TANDEM_CA"):
        context = ssl.create_default_context(cafile=ca)
        if cert := environ.get("TANDEM_CLIENT_CERT"):
            context.load_cert_chain(cert, environ["TANDEM_CLIENT_KEY"])
    with urllib.request.urlopen(request, timeout=10, context=context) as response:
        return [model["id"] for model in json.load(response)["data"]]


def channel(environ):
    if not (ca := environ.get("TANDEM_CA")):
        return grpc.insecure_channel(environ["TANDEM_GRPC"])
    credentials = grpc.ssl_channel_credentials(
        root_certificates=read(ca),
        private_key=read(environ.get("TANDEM_CLIENT_KEY")),
        certificate_chain=read(environ.get("TANDEM_CLIENT_CERT")),
    )
    return grpc.secure_channel(environ["TANDEM_GRPC"], credentials)


def metadata(environ):
    key = environ.get("TANDEM_API_KEY")
    keys = [("authorization", f"Bearer {key}")] if key else []
    return [("x-tandem-split", "always"), *keys]


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def read(path):
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()


if __name__ == "__main__":
    failure = main(os.environ)
    say(f"FAILED: {failure}" if failure else "a request used both pools")
    sys.exit(1 if failure else 0)

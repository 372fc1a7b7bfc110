"""A Kubernetes API server of one's own: real enough for Helm 3, Helm 4 and kubectl, and no more.

It has discovery, objects that are created, read, patched, watched and deleted, admission by the
real schemas, and controllers that reach their goal at once. It has no authentication, no
defaulting, no server-side ownership of fields, no webhooks, and none of the CRDs' rules in CEL.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.helm.documents import Document
from tests.helm.fake_api import protobuf
from tests.helm.fake_api.kinds import KINDS, Kind, discovery, openapi
from tests.helm.fake_api.store import Refused, Store

WATCH_S = 0.5
END_OF_LIST = "k8s.io/initial-events-end"


class Target(NamedTuple):
    kind: Kind
    namespace: str
    name: str | None
    part: str | None


@contextmanager
def fake_api(
    run_pod: Callable[[Document], bool] = lambda pod: True,
) -> Iterator[tuple[str, Store]]:
    """Its URL, and its objects."""
    store = Store(run_pod)
    server = _Server(store)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", store
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, store: Store) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = store
        self.stopping = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    timeout = 1  # of connections that nobody uses, which are waited for at the end

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        told = discovery(url.path) or openapi(url.path)
        if told is not None:
            self._send(told)
            return
        self._serve(self._read)

    def do_POST(self) -> None:
        self._serve(self._create)

    def do_PUT(self) -> None:
        self._serve(self._replace)

    def do_PATCH(self) -> None:
        self._serve(self._patch)

    def do_DELETE(self) -> None:
        self._serve(self._delete)

    def _serve(self, verb: Callable[[Target, dict[str, str]], None]) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            verb(_target(url.path), query)
        except Refused as error:
            status = {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "code": error.code,
                "reason": error.reason,
                "message": str(error),
            }
            self._send(status, error.code)

    def _read(self, target: Target, query: dict[str, str]) -> None:
        store = self.server.store
        if target.part == "log":
            self._send_text(f"log of {target.name}\n")
        elif query.get("watch") in ("true", "1"):
            self._watch(target, query)
        elif target.name is not None:
            self._send(store.get(target.kind, target.namespace, target.name))
        else:
            items = store.list(target.kind, target.namespace, lambda it: _selected(it, query))
            self._send(
                {
                    "kind": f"{target.kind.name}List",
                    "apiVersion": target.kind.group_version,
                    "metadata": {"resourceVersion": str(store.version)},
                    "items": items,
                }
            )

    def _create(self, target: Target, query: dict[str, str]) -> None:
        document = self._document()
        if query.get("dryRun") != "All":
            document = self.server.store.create(target.kind, target.namespace, document)
        self._send(document, 201)

    def _replace(self, target: Target, query: dict[str, str]) -> None:
        self._send(self.server.store.replace(target.kind, target.namespace, self._document()))

    def _patch(self, target: Target, query: dict[str, str]) -> None:
        assert target.name is not None
        patch = yaml.safe_load(self._body)
        store = self.server.store
        try:
            strategic = "strategic" in self.headers["Content-Type"]
            done = store.patch(
                target.kind, target.namespace, target.name, patch, strategic=strategic
            )
        except Refused as error:
            applied = "apply-patch" in self.headers["Content-Type"]
            if error.code != 404 or not applied:
                raise
            done = store.create(target.kind, target.namespace, patch)
        self._send(done)

    def _delete(self, target: Target, query: dict[str, str]) -> None:
        assert target.name is not None
        self._send(self.server.store.delete(target.kind, target.namespace, target.name))

    def _watch(self, target: Target, query: dict[str, str]) -> None:
        """The objects that are there, the mark that these are all, then events until hung up."""
        store = self.server.store
        seen = len(store.events)
        since = query.get("resourceVersion", "0")
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            if query.get("sendInitialEvents") == "true" or since in ("", "0"):
                for document in store.list(target.kind, target.namespace):
                    if _selected(document, query):
                        self._send_event("ADDED", document)
                self._send_event("BOOKMARK", _bookmark(target.kind, store.version))
            else:
                seen = sum(event[0] <= int(since) for event in store.events)
            while not self.server.stopping.is_set():
                for _, event, plural, document in store.wait(seen, WATCH_S):
                    seen += 1
                    home = document["metadata"].get("namespace", "")
                    here = plural == target.kind.plural and target.namespace in ("", home)
                    if here and _selected(document, query):
                        self._send_event(event, document)
                self._send_chunk(b"\n")  # fails once nobody listens
            self._send_chunk(b"")
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _send_event(self, event: str, document: Document) -> None:
        self._send_chunk(json.dumps({"type": event, "object": document}).encode() + b"\n")

    def _send_chunk(self, chunk: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        self.wfile.flush()

    def _document(self) -> Document:
        if self.headers.get("Content-Type") == protobuf.CONTENT_TYPE:
            return protobuf.read(self._body)
        document: Document = yaml.safe_load(self._body)
        return document

    def _send(self, body: Any, code: int = 200) -> None:
        accepted = self.headers.get("Accept", "").split(",")[0].split(";")[0].strip()
        if accepted == protobuf.CONTENT_TYPE and protobuf.can_write(body):
            self._send_bytes(protobuf.write(body), protobuf.CONTENT_TYPE, code)
        else:
            self._send_bytes(json.dumps(body).encode(), "application/json", code)

    def _send_text(self, text: str) -> None:
        self._send_bytes(text.encode(), "text/plain", 200)

    def _send_bytes(self, body: bytes, content_type: str, code: int) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _target(path: str) -> Target:
    """Raises Refused for paths that the server does not know."""
    for kind in KINDS:
        if not path.startswith(f"{kind.root}/"):
            continue
        parts = path.removeprefix(f"{kind.root}/").split("/")
        namespace = ""
        if parts[0] == "namespaces" and len(parts) > 2:
            namespace, parts = parts[1], parts[2:]
        if parts[0] == kind.plural:
            name, part = (*parts[1:], None, None)[:2]
            return Target(kind, namespace, name, part)
    raise Refused(404, "NotFound", f"the server knows no {path}")


def _selected(document: Document, query: dict[str, str]) -> bool:
    metadata = document["metadata"]
    for selector, values in (
        (query.get("labelSelector"), metadata.get("labels", {})),
        (query.get("fieldSelector"), {"metadata.name": metadata["name"]}),
    ):
        for rule in (selector or "").split(","):
            key, equals, value = rule.replace("==", "=").partition("=")
            if equals and values.get(key) != value:
                return False
    return True


def _bookmark(kind: Kind, version: int) -> Document:
    return {
        "kind": kind.name,
        "apiVersion": kind.group_version,
        "metadata": {"resourceVersion": str(version), "annotations": {END_OF_LIST: "true"}},
    }

"""A hub of one model on this machine, with the paths that huggingface_hub asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPOSITORY, COMMIT = "tandem/tiny", "5" * 40
REVISIONS = ("main", "v1", COMMIT)


class FakeHub(ThreadingHTTPServer):
    """`given` are the files that were downloaded. While it is `gated`, nobody gets anything."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.given: list[str] = []
        self.gated = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        api, file = f"/api/models/{REPOSITORY}", f"/{REPOSITORY}/resolve/{COMMIT}/"
        path = self.path.partition("?")[0]
        if not path.startswith((api, file)):
            self._refuse("RepoNotFound")
        elif self.server.gated:
            self._refuse("GatedRepo")
        elif path.startswith(file):
            self._give(path.removeprefix(file))
        elif path.removeprefix(api).removeprefix("/revision/") in ("", *REVISIONS):
            self._tell({"id": REPOSITORY, "sha": COMMIT, "siblings": []})
        elif path == f"{api}/tree/{COMMIT}":
            self._tell([_entry(*it) for it in self.server.files.items()])
        else:
            self._refuse("RevisionNotFound")

    def _give(self, name: str) -> None:
        content = self.server.files[name]
        if self.command == "GET":
            self.server.given.append(name)
        self._answer(200, content, {"ETag": f'"{_digest(content)}"', "X-Repo-Commit": COMMIT})

    def _tell(self, value: object) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, code: str) -> None:
        self._answer(403 if code == "GatedRepo" else 404, b"", {"X-Error-Code": code})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _entry(name: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "oid": _digest(content), "size": len(content), "path": name}


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def a_hub(files: dict[str, bytes]) -> Iterator[FakeHub]:
    with FakeHub(files) as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()

"""A stand-in for the hub on 127.0.0.1: serves folders as repositories and remembers what it was asked for.

The library reads HF_ENDPOINT when it is imported, so whoever asks runs in a process of its own.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Server(ThreadingHTTPServer):
    repositories: dict[str, Path]
    asked: list[str]


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        """`/OWNER/NAME/resolve/REVISION/FILE`, as the hub answers it: 404 with its reason for what is not there."""
        path = self.path.partition("?")[0].lstrip("/")
        name, found, rest = path.partition("/resolve/")
        folder = self.server.repositories.get(name)
        if not found or folder is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound" if folder or not found else "RepoNotFound"})
        self.server.asked.append(f"{name}: {rest.partition('/')[2]}")
        file = folder / rest.partition("/")[2]
        if not file.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        content = file.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return self._send(200, content, headers, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool = True) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def hub(repositories: dict[str, Path]) -> Iterator[tuple[str, list[str]]]:
    """(address, what was asked for as "OWNER/NAME: FILE") of a hub with these repositories."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.repositories, server.asked = repositories, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.asked
    finally:
        server.shutdown()
        server.server_close()

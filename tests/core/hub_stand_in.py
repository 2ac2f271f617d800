"""A stand-in for the hub on 127.0.0.1: serves folders as repositories, remembers requests, and takes uploads.

The library reads HF_ENDPOINT when it is imported, so whoever asks runs in a process of its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Server(ThreadingHTTPServer):
    repositories: dict[str, Path]
    asked: list[str]
    uploads: Path | None = None  # where repositories that are created go; None: nobody may write
    refuse: str = ""  # answer 403 to the first request whose path holds this


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

    def do_POST(self) -> None:
        """Creating a repository, asking how files are sent, and a commit with their content."""
        path = self.path.partition("?")[0].lstrip("/")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(f"POST {path} {'with' if self.headers.get('Authorization') else 'without'} token")
        if self.server.uploads is None or (self.server.refuse and self.server.refuse in path):
            self.server.refuse = ""
            return self._json(403, {"error": "this token may not write"})
        if path == "api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization", "me"), asked["name"])))
            folder = self.server.uploads / name
            folder.mkdir(parents=True, exist_ok=True)
            self.server.repositories[name] = folder
            return self._json(200, {"url": f"http://127.0.0.1:{self.server.server_port}/{name}", "name": name})
        name, _, action = path.removeprefix("api/models/").rpartition("/")[0].rpartition("/")
        if action == "preupload":
            modes = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._json(200, {"files": modes})
        if action == "commit":
            for line in body.decode().splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    file = self.server.repositories[name] / item["value"]["path"]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(base64.b64decode(item["value"]["content"]))
            address = f"http://127.0.0.1:{self.server.server_port}/{name}/commit/{COMMIT}"
            return self._json(200, {"commitUrl": address, "commitOid": COMMIT, "pullRequestUrl": None})
        return self._json(200, {"errors": [], "warnings": []})  # validate-yaml

    def _json(self, status: int, content: dict[str, object]) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

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
def hub(
    repositories: dict[str, Path], uploads: Path | None = None, refuse: str = ""
) -> Iterator[tuple[str, list[str]]]:
    """(address, what was asked for as "OWNER/NAME: FILE") of a hub with these repositories."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.repositories, server.asked, server.uploads, server.refuse = dict(repositories), [], uploads, refuse
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.asked
    finally:
        server.shutdown()
        server.server_close()

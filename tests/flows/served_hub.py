"""A small Hugging Face hub on loopback: it serves folders as revisions of one model, and fails when told to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

MODEL = "someone/llava"


@dataclass
class Hub:
    """What the hub serves: `main` is at `commit`; the next requests for it are answered by `faults` first."""

    folders: dict[str, Path]
    commit: str
    faults: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path."""
        self.asked.append(path)
        words = path.partition("?")[0].strip("/").split("/")
        revision = words[-1] if words[:2] == ["api", "models"] else words[3]
        if revision == "main" and self.faults:
            return self.faults.pop(0), {}, b"out of order"
        commit = self.commit if revision == "main" else revision
        folder = self.folders.get(commit)
        if folder is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        if "resolve" in words:
            data = (folder / words[4]).read_bytes()
            return 200, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}, data
        files = sorted(path for path in folder.iterdir() if path.is_file())
        found: Any = {"id": MODEL, "sha": commit, "siblings": [{"rfilename": path.name} for path in files]}
        if "tree" in words:
            found = [
                {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "0" * 40}
                for path in files
            ]
        return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve a hub on a free port while the body runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, data = hub.answer(self.path)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_HEAD = do_GET  # noqa: N815 - the names are http.server's

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

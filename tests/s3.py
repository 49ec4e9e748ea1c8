"""A real S3 server process on loopback (moto's), and a proxy before it that misbehaves as told."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import pytest

BUCKET = "cmrm-tests"
KEY_ID, SECRET = "AKIAMADEUPFORTESTS00", "made/up+secret/that+must/never+be/seen00"
NO_LIMIT = "inf"


class S3Server:
    """Moto's S3 server in a process of its own, on a port that the system chose."""

    def __init__(self, log: Path) -> None:
        self.log = log
        with log.open("wb") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
                stdout=sink,
                stderr=sink,
            )
        self.url = self._find_url()

    def ask(self, method: str, path: str, data: bytes = b"") -> bytes:
        """Make one request past all clients of ours, unsigned."""
        request = Request(f"{self.url}{path}", data, {"Content-Type": "text/plain"}, method=method)
        with build_opener(ProxyHandler({})).open(request, timeout=10) as answer:
            return answer.read()

    def check_signatures(self, *, after: str) -> None:
        """Let so many requests pass before signatures and policies are looked at; `NO_LIMIT` for never."""
        self.ask("POST", "/moto-api/reset-auth", after.encode())

    def requests(self) -> list[str]:
        """The requests so far, as `GET /bucket/key`."""
        return re.findall(r'"((?:GET|HEAD|PUT|POST|DELETE) [^"]*) HTTP', self.log.read_text())

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def _find_url(self) -> str:
        end = time.monotonic() + 60
        while time.monotonic() < end and self._process.poll() is None:
            if found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", self.log.read_text()):
                return found[1]
            time.sleep(0.02)
        raise RuntimeError(f"moto's server did not start: {self.log.read_text()}")


@contextmanager
def run_s3(folder: Path) -> Iterator[S3Server]:
    """Run a server with one bucket for the time of a `with` block."""
    server = S3Server(folder / "s3-server.log")
    try:
        server.ask("PUT", f"/{BUCKET}")
        yield server
    finally:
        server.stop()


def set_environment(patch: pytest.MonkeyPatch, folder: Path, **changes: str | None) -> None:
    """Set what S3 clients read, and nothing of the user's own; None leaves a variable out."""
    names = (
        "PROFILE",
        "SESSION_TOKEN",
        "REGION",
        "ENDPOINT_URL",
        "ENDPOINT_URL_S3",
        "RETRY_MODE",
        "MAX_ATTEMPTS",
    )
    settings: dict[str, str | None] = {
        **dict.fromkeys(f"AWS_{name}" for name in names),
        **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")),
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        # Without credentials, botocore would ask the network for those of a virtual machine.
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(folder / "no-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "no-credentials"),
        # What fails in a test fails for good, and need not be tried for long.
        "AWS_MAX_ATTEMPTS": "2",
        **changes,
    }
    for name, value in settings.items():
        if value is None:
            patch.delenv(name, raising=False)
        else:
            patch.setenv(name, value)


def forget_connections() -> None:
    """Close what fsspec keeps open, so that the environment is read anew."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()


class Asked(NamedTuple):
    """A request as the proxy sees it: method, path without its query, query, and the body's length."""

    method: str
    path: str
    query: str
    length: int


class Answer(NamedTuple):
    """What the proxy answers: a status, headers and a body; `declared` is the length that it claims."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    declared: int | None = None


Trick = Callable[[Asked, Callable[[], Answer]], Answer | None]


class Proxy:
    """A proxy before a server; a trick may answer instead, change the answer, wait, or hang up (None)."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target).netloc
        self.trick: Trick = lambda _, forward: forward()
        self.seen: list[Asked] = []
        self._server = self._listen(0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        """Stop listening, as a server that is gone; its port is kept for `resume`."""
        self._server.shutdown()
        self._server.server_close()

    def resume(self) -> None:
        self._server = self._listen(int(self._server.server_address[1]))

    def _listen(self, port: int) -> ThreadingHTTPServer:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                proxy._handle(self)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        ThreadingHTTPServer.allow_reuse_address = True
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.headers.get("Expect") == "100-continue":
            handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            del handler.headers["Expect"]
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        parts = urlsplit(handler.path)
        asked = Asked(handler.command, unquote(parts.path), parts.query, len(body))
        self.seen.append(asked)

        def forward() -> Answer:
            onward = http.client.HTTPConnection(self._target, timeout=30)
            try:
                onward.request(handler.command, handler.path, body, dict(handler.headers.items()))
                got = onward.getresponse()
                return Answer(got.status, dict(got.getheaders()), got.read())
            finally:
                onward.close()

        answer = self.trick(asked, forward)
        if answer is not None:
            self._send(handler, answer)

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        try:
            handler.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in {"content-length", "connection", "date", "server"}:
                    handler.send_header(name, value)
            head = answer.headers.get("Content-Length") if handler.command == "HEAD" else None
            declared = len(answer.body) if answer.declared is None else answer.declared
            handler.send_header("Content-Length", head or str(declared))
            handler.end_headers()
            handler.wfile.write(answer.body)
            handler.wfile.flush()
        except OSError:
            pass  # the client has given up

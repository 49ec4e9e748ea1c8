"""A real HTTP server on loopback that answers each path as a test tells it."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(kw_only=True)
class Page:
    """What a path answers: each status of `statuses` once, the last one from then on; the body goes with 200 alone.

    `declared` is the length that is claimed, None for none. `before_end` is done after half of the body.
    """

    body: bytes = b""
    statuses: tuple[int, ...] = (200,)
    headers: Mapping[str, str] = field(default_factory=dict)
    declared: int | None = -1
    before_end: Callable[[], None] = lambda: None
    endless: bool = False
    # Seconds between two bytes.
    drip: float = 0.0


class FileServer:
    """The pages by their paths, and how often each was asked for, in all and at once."""

    def __init__(self, host: str, tls: ssl.SSLContext | None) -> None:
        self.host, self.scheme = host, "http" if tls is None else "https"
        self.pages: dict[str, Page] = {}
        self.asked: Counter[str] = Counter()
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.close_connection = True
                with suppress(OSError):
                    owner.enter(1)
                    try:
                        rest = owner.answer(self)
                    finally:
                        # Before the last bytes: whoever has them may ask for the next page at once.
                        owner.enter(-1)
                    self.wfile.write(rest)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self._server.server_address[1]}"

    def put(self, path: str, body: bytes = b"", **more: object) -> str:
        """Answer a path with a body from now on, and return its URL."""
        self.pages[path] = Page(body=body, **more)  # type: ignore[arg-type]
        return f"{self.url}{path}"

    def enter(self, change: int) -> None:
        with self._lock:
            self._at_once += change
            self.most_at_once = max(self.most_at_once, self._at_once)

    def answer(self, handler: BaseHTTPRequestHandler) -> bytes:
        """Answer all but the last bytes, which are returned."""
        path = handler.path.partition("?")[0]
        with self._lock:
            number = self.asked[path]
            self.asked[path] += 1
        page = self.pages.get(path, Page(statuses=(404,)))
        status = page.statuses[min(number, len(page.statuses) - 1)]
        tag = page.headers.get("ETag")
        if tag is not None and handler.headers.get("If-None-Match") == tag:
            status = 304
        if status == 0:
            # Hang up without a word, by a reset.
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            handler.connection.close()
            return b""
        body = page.body if status == 200 else b""
        handler.send_response(status)
        for name, text in page.headers.items():
            handler.send_header(name, text)
        if page.declared is not None and not page.endless:
            handler.send_header("Content-Length", str(len(body) if page.declared < 0 else page.declared))
        handler.end_headers()
        if page.drip:
            for byte in body:
                handler.wfile.write(bytes((byte,)))
                time.sleep(page.drip)
            return b""
        half = len(body) // 2
        handler.wfile.write(body[:half])
        handler.wfile.flush()
        page.before_end()
        while page.endless:
            handler.wfile.write(bytes(1 << 16))
        return body[half:]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def serve_files(host: str = "127.0.0.1", *, tls: ssl.SSLContext | None = None) -> Iterator[FileServer]:
    """Serve for the time of a `with` block."""
    server = FileServer(host, tls)
    try:
        yield server
    finally:
        with suppress(OSError):
            server.stop()


@contextmanager
def serve_bytes(start: bytes, *, again: bytes, pause: float = 0.01) -> Iterator[str]:
    """Answer any request with some bytes, and then with others again and again until the other side hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        connection.recv(1 << 16)
                        connection.sendall(start)
                        while True:
                            connection.sendall(again)
                            time.sleep(pause)

        threading.Thread(target=answer, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/file"


def wait(seconds: float) -> Callable[[], None]:
    """What a page does before its end to be slow."""
    return lambda: time.sleep(seconds)

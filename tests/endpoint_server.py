"""A server on loopback that speaks chat completions well, badly or not at all, as a test tells it."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from typing import Any, Self


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request as it came; `number` counts them from 0."""

    number: int
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    time: float

    @property
    def text(self) -> str:
        return self.body["messages"][0]["content"]

    @property
    def code(self) -> str:
        return self.text.rpartition(">")[2].partition("first ")[2].partition(",")[0]


Act = Callable[["Handler", Asked], None]


class Handler(BaseHTTPRequestHandler):
    """One request: counted, then answered as the test says."""

    protocol_version = "HTTP/1.1"
    endpoint: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or "{}")
        with self.endpoint.busy():
            asked = Asked(
                number=len(self.endpoint.asked),
                path=self.path,
                headers={name.lower(): value for name, value in self.headers.items()},
                body=body,
                time=time.monotonic(),
            )
            self.endpoint.asked.append(asked)
            try:
                self.endpoint.act(self, asked)
            except OSError:
                self.close_connection = True

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_arguments: object) -> None:
        """The test's own output is enough."""

    def give(self, status: int, body: bytes | str, headers: Mapping[str, str] | None = None) -> None:
        content = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@dataclass
class Endpoint:
    """The server, to be entered; what `act` does to each request can be changed at any time."""

    act: Act
    asked: list[Asked] = field(default_factory=list)
    most_at_once: int = 0
    stopped: Event = field(default_factory=Event)
    _now: int = 0
    _lock: Lock = field(default_factory=Lock)

    def __enter__(self) -> Self:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Handler,), {"endpoint": self}))
        # A test that is done does not wait for a hang.
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def busy(self) -> _Busy:
        return _Busy(self)


class _Busy:
    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def __enter__(self) -> None:
        with self.endpoint._lock:
            self.endpoint._now += 1
            self.endpoint.most_at_once = max(self.endpoint.most_at_once, self.endpoint._now)

    def __exit__(self, *_error: object) -> None:
        with self.endpoint._lock:
            self.endpoint._now -= 1


def complete(content: object, *, finish: object = "stop", usage: object = (11, 5), **message: object) -> str:
    """The JSON of a completion."""
    if isinstance(usage, tuple):
        usage = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "served",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": finish,
                    "message": {"role": "assistant", "content": content, **message},
                }
            ],
            "usage": usage,
        }
    )


def find(word: str) -> Act:
    """Answer in the form that is asked for."""
    return lambda handler, asked: handler.give(200, complete(f"{asked.code} {word}"))


def give(status: int, body: bytes | str, headers: Mapping[str, str] | None = None) -> Act:
    """Answer always the same."""
    return lambda handler, _asked: handler.give(status, body, headers)


def in_turn(*acts: Act) -> Act:
    """Do one after the other, and the last ever after."""
    return lambda handler, asked: acts[min(asked.number, len(acts) - 1)](handler, asked)


def hang(handler: Handler, _asked: Asked) -> None:
    """Say nothing."""
    handler.endpoint.stopped.wait(10)


def drip(handler: Handler, _asked: Asked) -> None:
    """Say something all the time, and never all of it."""
    handler.wfile.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n"
    )
    for _ in range(200):
        handler.wfile.write(b" ")
        if handler.endpoint.stopped.wait(0.02):
            return


def reset(handler: Handler, _asked: Asked) -> None:
    """Break the connection in the middle of a body."""
    handler.wfile.write(b'HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{"choices": [')
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def unfold(handler: Handler, _asked: Asked) -> None:
    """Send more than anyone wants to read."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n")
    for _ in range(100):
        handler.wfile.write(b"[" * 1_000_000)

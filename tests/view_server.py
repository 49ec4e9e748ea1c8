"""The server of `cmrm view` in a thread of this process, on a real port, and a client that says what it likes."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flows.view.access import Access
from flows.view.server import ViewServer, listening
from storage.store import Store


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back: status, headers in small letters, body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running server."""

    access: Access
    server: ViewServer

    @property
    def address(self) -> str:
        return self.access.address

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.access.port}"

    @property
    def cookie(self) -> str:
        return f"{self.access.cookie}={self.access.token}"

    @property
    def home(self) -> str:
        """The address of the list of runs, without its last slash."""
        return f"{self.origin}{self.access.root}"

    def ask(self, method: str, page: str, *, data: bytes | None = None, **headers: str | None) -> Answer:
        """Make one request for a page as a browser that was let in would."""
        return self.send(method, f"{self.access.root}{page}", data=data, **headers)

    def send(self, method: str, path: str, *, data: bytes | None = None, **headers: str | None) -> Answer:
        """Make one request for any path with the cookie; None leaves a header out, `_` is a hyphen."""
        own: dict[str, str | None] = {"Host": self.origin.removeprefix("http://"), "Cookie": self.cookie}
        if method == "POST":
            own |= {"Origin": self.origin, "Content-Type": "application/json"}
        own |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.access.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in own.items():
                if value is not None:
                    connection.putheader(name, value)
            if data is not None:
                connection.putheader("Content-Length", str(len(data)))
            connection.endheaders(data)
            got = connection.getresponse()
            found = {name.lower(): value for name, value in got.getheaders()}
            return Answer(status=got.status, headers=found, body=got.read())
        finally:
            connection.close()

    def open_report(self, run_id: str) -> Answer:
        """Ask for a run's report, where its link leads."""
        found = self.ask("GET", f"/runs/{run_id}")
        return self.send("GET", found.headers["location"])

    def query(self, sql: str, *, run: str | None = None) -> Answer:
        """Ask a query as the page does."""
        return self.ask("POST", "/queries", data=json.dumps({"query": sql, "run": run}).encode())


@contextmanager
def serve_view(store: Store) -> Iterator[Served]:
    """Serve a store for the time of a `with` block."""
    with listening(0) as listener:
        access = Access(port=int(listener.getsockname()[1]))
        server = ViewServer(store, access)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Served(access=access, server=server)
        finally:
            server.should_exit = True
            thread.join()
            server.close()

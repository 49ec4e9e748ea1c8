"""Serve the page on the loopback interface until Ctrl-C, SIGTERM, or the end of the process."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from html import escape
from pathlib import Path

import uvicorn
from rich.console import Console
from rich.text import Text

from cmrm.errors import UserError
from cmrm.untrusted.redaction import redact_known
from flows.terminal.safe_text import show_safely
from flows.view.access import Access
from flows.view.app import make_app
from flows.view.databases import Databases
from flows.view.results import Results
from storage.errors import StoreError
from storage.store import Store

LOOPBACK = "127.0.0.1"
# Seconds that a page which is being sent has at the end.
GRACE = 1


class ViewServer(uvicorn.Server):
    """The server of a store's page; at its end it stops the queries that are running."""

    def __init__(self, store: Store, access: Access) -> None:
        databases = Databases(store)
        self._results = Results(databases)
        app = make_app(store, access=access, results=self._results, databases=databases)
        # No log: it would hold the token. Whatever fails is printed by the guard.
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="off",
            timeout_graceful_shutdown=GRACE,
        )
        super().__init__(config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop the queries, and then wait for what is being sent."""
        self._results.stop()
        await super().shutdown(sockets=sockets)

    def close(self) -> None:
        """Release the results of queries, and their files."""
        self._results.close()


def serve(store: Store, *, port: int, browser: bool) -> None:
    """Serve a store until a signal, which is raised again as an exception.

    Port 0 is a free one. `browser` opens a browser, if this is a terminal with one.
    Raises `StoreError` if there is no store, `UserError` if the port is taken.
    """
    if not store.files.exists():
        raise StoreError(f"there is no store at {store.url}: check the path, or make one by a run")
    with listening(port) as listener:
        access = Access(port=int(listener.getsockname()[1]))
        server = ViewServer(store, access)
        console = Console()
        console.print(Text(show_safely(f"{redact_known(store.url)} is shown at")), soft_wrap=True)
        console.print(Text(access.address), soft_wrap=True)
        console.print(Text("Ctrl-C ends it."))
        sys.stdout.flush()
        with _shown_in_browser(access.address) if browser and _has_browser() else _nothing():
            try:
                server.run(sockets=[listener])
            finally:
                server.close()


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """Listen on a port of the loopback interface, 0 for a free one; raises `UserError` if it is taken."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, port))
        except OSError as error:
            raise UserError(
                f"--port {port}: cannot be listened on ({error.strerror or error}); give another one, or none for a "
                "free one"
            ) from error
        listener.listen()
        yield listener


def _has_browser() -> bool:
    """Whether somebody at this terminal could see a browser's window."""
    graphical = sys.platform in {"win32", "darwin"} or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    return graphical and sys.stdout.isatty()


@contextmanager
def _shown_in_browser(address: str) -> Iterator[None]:
    """Open an address by way of a file of this user alone: others see the arguments of a browser's process."""
    with tempfile.TemporaryDirectory(prefix="cmrm-view-") as folder:
        page = Path(folder) / "open.html"
        target = escape(address)
        page.write_text(
            f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={target}">'
            f'<a href="{target}">cmrm view</a>',
            encoding="utf-8",
        )
        # Without one that opens, there is the address that was printed.
        with suppress(webbrowser.Error):
            webbrowser.open(page.as_uri())
        yield


@contextmanager
def _nothing() -> Iterator[None]:
    yield

"""A Prefect server that asks for a password."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, temporary_settings

from cmrm.errors import UserError
from flows.server.client import check_server

WORDS = "user:right"


class Guarded(BaseHTTPRequestHandler):
    """Tells its health to anyone, the rest to those who know the password, as Prefect's server does."""

    def do_GET(self) -> None:
        knows = self.headers.get("Authorization") == "Basic dXNlcjpyaWdodA=="
        self.send_response(200 if knows or self.path == "/api/health" else 401)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(b'"3.8.8"' if knows else b"true")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def guarded() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()
        thread.join()


def test_a_server_that_knows_the_password_is_used(guarded: str) -> None:
    with temporary_settings({PREFECT_API_AUTH_STRING: WORDS}):
        check_server(guarded)


@pytest.mark.parametrize("words", ["user:wrong", None])
def test_without_the_password_a_line_says_which_variable_holds_it(guarded: str, words: str | None) -> None:
    with (
        temporary_settings({PREFECT_API_AUTH_STRING: words}),
        pytest.raises(UserError, match="Set PREFECT_API_AUTH_STRING=user:password") as raised,
    ):
        check_server(guarded)
    assert "wrong" not in str(raised.value)

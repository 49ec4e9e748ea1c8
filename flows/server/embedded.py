"""Prefect's own server, embedded: started beside the run, quiet, and gone with it."""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from cmrm.errors import UserError
from storage.errors import explained

STARTUP_SECONDS = 120.0
SHUTDOWN_SECONDS = 10.0

# Standard input is a pipe whose other end is the run: it closes when the run ends in any way, SIGKILL included,
# and the server with it. Prefect's own embedded server outlives a killed run.
# Its imports stay, and are neither searched for garbage nor taken apart at the end, which would take two of its six
# seconds. What a client asks first is asked here, while the run imports torch: it takes a second the first time.
# All that the server has to finish, uvicorn and Prefect's lifespan have finished when `run` returns.
CHILD = """
import gc, os, sys, threading, time, urllib.request
usually = gc.get_threshold()
gc.set_threshold(100 * usually[0])
import uvicorn
from prefect.server.api.server import create_app
config = uvicorn.Config(create_app(ephemeral=True), host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
gc.freeze()
gc.set_threshold(*usually)
server = uvicorn.Server(config)
def stop_with_parent():
    sys.stdin.buffer.read()
    server.should_exit = True
def warm_up():
    while not server.started:
        time.sleep(0.05)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    direct.open(f"http://127.0.0.1:{sys.argv[1]}/api/admin/version").read()
threading.Thread(target=stop_with_parent, daemon=True).start()
threading.Thread(target=warm_up, daemon=True).start()
server.run()
sys.stderr.flush()
os._exit(0)
"""


class EmbeddedServer:
    """A Prefect API on a free loopback port, with the user's own Prefect database; its log goes to a file."""

    def __init__(self, *, log: Path) -> None:
        self._log = log
        self._port = _find_free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What PREFECT_API_URL is set to."""
        return f"http://127.0.0.1:{self._port}/api"

    def start(self) -> None:
        """Start the server process without waiting for it; it ends when this process does."""
        with explained("write", str(self._log)):
            self._log.parent.mkdir(parents=True, exist_ok=True)
            self._log.touch()
        environment = {**os.environ, "PREFECT_UI_ENABLED": "0", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter and a text of our own
                [sys.executable, "-c", CHILD, str(self._port)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                # Control-C in the terminal is for the run, which then ends the server in order.
                start_new_session=True,
            )
        # Prefect sends its last logs and events while Python shuts down, so the server has to outlive that.
        atexit.register(self.stop)

    def wait(self) -> None:
        """Wait until the server answers; `UserError` naming its log when it does not."""
        assert self._process is not None
        end = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            if answers(self.url):
                return
            time.sleep(0.05)
        raise UserError(
            f"Prefect's embedded server did not start; its log is {self._log}. "
            "Use a server of your own instead: cmrm run --server http://host:4200/api"
        )

    def stop(self) -> None:
        """End the server in order; does nothing where none runs."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            self._process.wait(timeout=SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def answers(url: str) -> bool:
    """Whether a Prefect API answers at the URL; a server on this machine is never asked through a proxy."""
    # Late, since a committed run asks no server.
    from http.client import HTTPException
    from urllib.parse import urlsplit
    from urllib.request import ProxyHandler, build_opener

    try:
        local = urlsplit(url).hostname in {"127.0.0.1", "localhost", "::1"}
        opener = build_opener(ProxyHandler({})) if local else build_opener()
        with opener.open(f"{url.rstrip('/')}/health", timeout=10):
            return True
    except (OSError, ValueError, HTTPException):
        return False


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

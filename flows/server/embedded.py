"""Embedded Prefect server: a child process of the run that exits with it."""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from cmrm.errors import UserError
from flows.server.monitor import Health
from storage.errors import explained

STARTUP_SECONDS = 120.0
SHUTDOWN_SECONDS = 10.0

# Its stdin is a pipe from the run: EOF shuts the server down however the run ends, SIGKILL included. Prefect's own
# embedded server outlives a killed run.
# Rare garbage collection and `os._exit` save two of its six seconds. The client's first request takes a second and is
# sent here already, while the run imports torch.
# When `run` returns, uvicorn and Prefect's lifespan have finished their shutdown.
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
    """A Prefect API server on a free loopback port, with the user's Prefect database; it logs to a file."""

    def __init__(self, *, log: Path) -> None:
        self._log = log
        self._port = _find_free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The value for PREFECT_API_URL."""
        return f"http://127.0.0.1:{self._port}/api"

    def start(self) -> None:
        """Start the server process without waiting for it; it exits when this process does."""
        with explained("write", str(self._log)):
            self._log.parent.mkdir(parents=True, exist_ok=True)
            self._log.touch()
        environment = {**os.environ, "PREFECT_UI_ENABLED": "0", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        # A restarted server would take the run's PREFECT_API_URL for another server.
        environment.pop("PREFECT_API_URL", None)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter and a text of our own
                [sys.executable, "-c", CHILD, str(self._port)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                # Ctrl-C in the terminal goes to the run, which then shuts the server down.
                start_new_session=True,
            )
        # Prefect sends its last logs and events while Python shuts down, so stop the server after that.
        atexit.register(self.stop)

    def has_ended(self) -> bool:
        """Whether the server process has exited on its own."""
        return self._process is not None and self._process.poll() is not None

    def restart(self) -> None:
        """Kill the server process and restart it on the same port, without waiting until it answers."""
        process = self._process
        if process is None:
            return
        # A hanging server would not shut down.
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        atexit.unregister(self.stop)
        self.start()

    def wait(self) -> None:
        """Wait until the server answers; raises `UserError` naming its log if it does not."""
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
        """Shut the server down; does nothing if none runs."""
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
    """Whether a Prefect API answers /health in time."""
    return poll_health(url, seconds=10.0) is Health.ANSWERS


def poll_health(url: str, *, seconds: float) -> Health:
    """Ask a Prefect API for /health; requests to this machine bypass proxies."""
    # Imported late, since a run with everything committed needs no server.
    from http.client import HTTPException
    from urllib.parse import urlsplit
    from urllib.request import ProxyHandler, build_opener

    try:
        local = urlsplit(url).hostname in {"127.0.0.1", "localhost", "::1"}
        opener = build_opener(ProxyHandler({})) if local else build_opener()
        with opener.open(f"{url.rstrip('/')}/health", timeout=seconds):
            return Health.ANSWERS
    except (OSError, ValueError, HTTPException) as error:
        # urllib wraps a timeout while it connects, and not one while it reads.
        timed_out = isinstance(error, TimeoutError) or isinstance(
            getattr(error, "reason", None), TimeoutError
        )
        return Health.SILENT if timed_out else Health.REFUSES


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

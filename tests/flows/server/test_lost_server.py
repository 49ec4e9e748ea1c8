"""A Prefect server that vanishes in the middle of a run: the job in flight is committed, then one line and status 2."""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest

from flows.server.monitor import Health, ServerMonitor
from storage.store import Store
from tests.forked import NO_SERVER, Forker
from tests.made_once import copy_prefect_home

# Waits within the first job of a stage, until it is told to go on; a lost server is noticed ten times as soon.
WAITING_RUN = """
import sys, time
from pathlib import Path
import flows.server.client, flows.server.monitor
import storage.store

folder, *arguments = sys.argv[1:]
flows.server.client.ANSWER_SECONDS = 1.0
flows.server.monitor.POLL_SECONDS = 0.2
flows.server.monitor.LOST_SECONDS = flows.server.monitor.HUNG_SECONDS = 3.0
flows.server.monitor.GRACE_SECONDS = 1.0

commit = storage.store.Store.commit
def commit_late(self, stage, *arguments, **more):
    if stage == "embed" and not Path(folder, "reached").exists():
        Path(folder, "reached").touch()
        while not Path(folder, "go").exists():
            time.sleep(0.05)
    return commit(self, stage, *arguments, **more)
storage.store.Store.commit = commit_late

from flows.cli import main
main(arguments)
"""
# Kills the embedded server of its own as often as it is told, each time once the server answers.
KILLING_RUN = """
import os, signal, sys, time
import flows.server.monitor
from flows.server.embedded import EmbeddedServer, answers
import storage.store

left, *arguments = sys.argv[1:]
left = int(left)
flows.server.monitor.POLL_SECONDS = 0.2
flows.server.monitor.LOST_SECONDS = 3.0
flows.server.monitor.GRACE_SECONDS = 1.0
flows.server.monitor.STARTUP_SECONDS = 1.0 if left > 1 else 60.0
servers = []
start = EmbeddedServer.start
def note(self):
    start(self)
    if self not in servers:
        servers.append(self)
EmbeddedServer.start = note

commit = storage.store.Store.commit
def commit_and_kill(self, stage, *arguments, **more):
    global left
    made = commit(self, stage, *arguments, **more)
    if stage == "embed":
        while left:
            (server,) = servers
            process = server._process
            os.kill(process.pid, signal.SIGKILL)
            left -= 1
            while left and server._process is process:
                time.sleep(0.05)
    return made
storage.store.Store.commit = commit_and_kill

from flows.cli import main
main(arguments)
print("killed", 1)
"""


class Wire:
    """A TCP proxy before a server, which can vanish in each of the ways in which servers do."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._to = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}{parts.path}"
        self._open: list[socket.socket] = []
        self._way = ""
        Thread(target=self._accept, daemon=True).start()

    def vanish(self, way: str) -> None:
        self._way = way
        if way == "refused":
            # A thread that waits in accept() keeps the socket until it is shut down.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        if way != "silent":
            for one in self._open:
                self._break(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(client)
            if self._way == "reset":
                self._break(client)
            elif not self._way:
                server = socket.create_connection(self._to)
                self._open.append(server)
                Thread(target=self._pass_on, args=(client, server), daemon=True).start()
                Thread(target=self._pass_on, args=(server, client), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                if self._way:
                    return
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    @staticmethod
    def _break(one: socket.socket) -> None:
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            one.shutdown(socket.SHUT_RD)
        except OSError:
            return  # it was closed before
        finally:
            one.close()

    def close(self) -> None:
        self._listener.close()
        for one in self._open:
            one.close()


@pytest.fixture
def wire(prefect_server: str) -> Iterator[Wire]:
    made = Wire(prefect_server)
    yield made
    made.close()


@pytest.fixture
def spec(tmp_path: Path, llava_folder: Path, write_short_spec: Callable[..., Path]) -> Path:
    return write_short_spec(tmp_path / "data", llava_folder, judges=["refusal"], shard_size=5)


def wait_for(there: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def committed(store: Path, stage: str) -> int:
    return len(Store.open(store).manifest_files(stage))


def find_last_words(said: str) -> list[str]:
    """What a run says of its end, also behind Prefect's own complaint about a server that is gone, an unended line."""
    return re.findall("cmrm: .*", said)


@pytest.mark.parametrize("way", ["refused", "silent", "reset"])
def test_the_job_in_flight_is_committed_before_a_run_without_its_server_ends_in_one_line(
    spec: Path, tmp_path: Path, wire: Wire, forker: Forker, way: str
) -> None:
    store, log = tmp_path / "store", tmp_path / "log"
    arguments = [str(tmp_path), "run", str(spec), "--store", str(store), "--server", wire.url]
    run = forker.start(WAITING_RUN, arguments, log=log)
    wait_for((tmp_path / "reached").exists, 300)
    wire.vanish(way)
    # Longer than the server has to be silent for, and than what is left of a run then has.
    time.sleep(7)
    assert run.poll() is None, log.read_text()
    assert committed(store, "embed") == 0
    (tmp_path / "go").touch()
    assert run.wait(timeout=40) == 2
    said = log.read_text()
    (line,) = find_last_words(said)
    assert line.startswith(f"cmrm: Prefect's server at {wire.url} fails or no longer answers (")
    assert "run the same command again" in line
    assert "Traceback" not in said
    # The one that was in hand, and none after it.
    assert committed(store, "embed") == 1


def notice(polls: list[Health], seconds_a_poll: float, monkeypatch: pytest.MonkeyPatch) -> float | None:
    """Seconds on a made clock until a monitor gives a server up that is polled so; None if it does not."""
    clock = [0.0]
    left = iter(polls)
    monitor = ServerMonitor(lambda: pytest.fail("polled"), where="there", embedded=None, leave=lambda _: None)

    def poll() -> Health:
        found = next(left, None)
        if found is None:
            monitor._ended.set()
            return Health.ANSWERS
        clock[0] += seconds_a_poll
        return found

    monkeypatch.setattr(monitor, "_poll", poll)
    monkeypatch.setattr(monitor, "_leave_when_idle", lambda: None)
    monkeypatch.setattr("flows.server.monitor.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("flows.server.monitor.POLL_SECONDS", 0.0)
    monitor._watch()
    return clock[0] if monitor.is_lost else None


def test_a_server_that_refuses_is_given_up_within_a_minute_and_a_silent_one_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = notice([Health.REFUSES] * 100, 1.0, monkeypatch)
    silent = notice([Health.SILENT] * 100, 20.0, monkeypatch)
    assert refused is not None
    assert 30 < refused < 60
    assert silent is not None
    assert 120 < silent < 180


def test_one_failed_poll_after_a_long_gap_does_not_give_a_server_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert notice([Health.ANSWERS, Health.REFUSES, Health.ANSWERS], 500.0, monkeypatch) is None


@pytest.mark.parametrize(("kills", "status"), [(1, 0), (2, 2)])
def test_an_embedded_server_that_dies_is_started_again_once(
    spec: Path, tmp_path: Path, forker: Forker, kills: int, status: int
) -> None:
    home, log = copy_prefect_home(tmp_path / "prefect"), tmp_path / "log"
    arguments = [str(kills), "run", str(spec), "--store", str(tmp_path / "store")]
    run = forker.start(NO_SERVER + KILLING_RUN, arguments, log=log, environment={"PREFECT_HOME": str(home)})
    ended = run.wait(timeout=400)
    said = log.read_text()
    assert ended == status, said
    assert len(find_last_words(said)) == (status == 2)
    assert "Traceback" not in said
    assert committed(tmp_path / "store", "report") == (status == 0)

"""`cmrm sql` as a process of its own: pipes, terminals, progress and Ctrl-C."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from storage.store import Store
from tests.made_up_store import fill
from tests.preloaded import Forked, Preloaded

# What a question needs.
IMPORTED = ("flows.cli", "flows.sql.query", "flows.sql.grid", "flows.sql.export", "storage.sql.database")
# Would run for hours.
ENDLESS = "SELECT sum(a.range * b.range % 7) FROM range(10_000_000) a, range(10_000_000) b"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with something in every view."""
    return fill(Store.create(tmp_path_factory.mktemp("query") / "store")).url


@pytest.fixture(scope="module")
def started() -> Iterator[Callable[..., AbstractContextManager[Forked]]]:
    """The starter of real processes of `cmrm sql`, each killed at the end if it is still there."""
    # On one core, whatever the machine has: what runs for hours would take all of them until it is stopped.
    one_core = f"os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}])"
    code = f"import os, sys; {one_core}; from flows.cli import main; main(sys.argv[1:])"
    with Preloaded(*IMPORTED) as parent:

        @contextmanager
        def start(store: str, *arguments: str, **options: object) -> Iterator[Forked]:
            process = parent.start(code, "sql", *arguments, "--store", store, **options)
            try:
                yield process
            finally:
                process.kill()
                process.wait()

        yield start


def wait_for(condition, seconds: float = 30) -> bool:
    """Wait until something is so; whether it came to be."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def stays_without_views(rooms: Path) -> bool:
    """Whether a folder without a database in it is there now and a second later."""
    before = {*rooms.iterdir()}
    time.sleep(1)
    return bool(before) and before == {*rooms.iterdir()} and not any(rooms.glob("*/store.duckdb"))


def test_a_query_comes_from_standard_input(started, store):
    with started(store, "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert b"nine" in process.communicate(b"SELECT 9 AS nine")[0]


def test_parquet_goes_into_a_pipe_and_not_onto_a_terminal(started, store):
    arguments = ("SELECT 7 AS seven", "--format", "parquet")
    with started(store, *arguments, stdout=subprocess.PIPE) as process:
        data = process.communicate()[0]
    assert pq.read_table(io.BytesIO(data)).to_pylist() == [{"seven": 7}]
    main_end, terminal = pty.openpty()
    with started(store, *arguments, stdout=terminal, stderr=subprocess.PIPE) as process:
        message = process.communicate()[1].decode()
    os.close(terminal)
    os.close(main_end)
    assert process.returncode == 2
    assert message.splitlines() == [
        "cmrm: --format parquet is not for a terminal: add -o FILE, or pipe it on"
    ]


def test_a_terminal_gets_no_control_characters_in_any_format(started, store):
    for format_ in ("table", "csv", "json", "markdown"):
        main_end, terminal = pty.openpty()
        query = "SELECT chr(27) || ']0;owned' || chr(155) AS answer"
        with started(
            store, query, "--format", format_, stdout=terminal, env={**os.environ, "TERM": "dumb"}
        ) as process:
            assert process.wait(60) == 0
        shown = os.read(main_end, 65536).decode()
        os.close(terminal)
        os.close(main_end)
        assert "owned" in shown
        assert "\x1b" not in shown
        assert "\x9b" not in shown


def test_a_reader_that_ends_early_is_no_error(started, store):
    with started(
        store,
        "SELECT range AS n FROM range(5_000_000)",
        "--format",
        "csv",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"n\n"
        process.stdout.close()
        assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 0


def test_ctrl_c_stops_a_slow_query_with_one_line_and_status_130(started, store, tmp_path):
    rooms, out = tmp_path / "tmp", tmp_path / "out"
    rooms.mkdir()
    out.mkdir()
    environment = {**os.environ, "TMPDIR": str(rooms)}
    arguments = (ENDLESS, "-o", str(out / "rows.csv"))
    with started(store, *arguments, stderr=subprocess.PIPE, env=environment) as process:
        # A folder for what it may spill is the last that is made before the query runs, and stays as long; the one
        # before it, for the views, is gone in a moment.
        assert wait_for(lambda: stays_without_views(rooms))
        process.send_signal(signal.SIGINT)
        message = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 130, message
    assert message == "cmrm: the query was stopped.\n"
    assert [*rooms.iterdir(), *out.iterdir()] == []


def test_a_slow_query_shows_how_far_it_is_on_a_terminal_alone(started, store):
    main_end, terminal = pty.openpty()
    os.set_blocking(main_end, False)
    shown = b""

    def bar_is_there() -> bool:
        nonlocal shown
        try:
            shown += os.read(main_end, 65536)
        except BlockingIOError:
            return False
        return b"asking" in shown and b"%" in shown

    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    with started(store, ENDLESS, stdout=subprocess.PIPE, stderr=terminal, env=environment) as process:
        assert wait_for(bar_is_there)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[0] == b""
    assert process.returncode == 130
    os.close(terminal)
    os.close(main_end)

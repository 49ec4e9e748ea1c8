"""Stores to test on: a folder on the disk, and behind fsspec one in memory and one on a real S3 server."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest

from storage.store import Store
from tests.made_up_store import fill
from tests.s3 import BUCKET, Proxy, S3Server, forget_connections, run_s3, set_environment

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store on the disk."""
    return Store.create(tmp_path / "store")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server on loopback, with one bucket."""
    with run_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty store on S3, with the environment set to reach it."""
    set_environment(monkeypatch, tmp_path, AWS_ENDPOINT_URL=s3_server.url)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/store"


@pytest.fixture
def proxy(s3: str, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy before the S3 server, which the environment names as the server."""
    between = Proxy(s3_server.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    forget_connections()
    yield between
    between.stop()
    forget_connections()


@pytest.fixture(params=["disk", "memory", "s3"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store on the disk, then those behind an fsspec URL."""
    if request.param == "disk":
        yield Store.create(tmp_path / "store")
        return
    if request.param == "s3":
        yield Store.create(request.getfixturevalue("s3"))
        return
    yield Store.create("memory://any-store")
    memory = fsspec.filesystem("memory")
    if memory.exists("/any-store"):
        memory.rm("/any-store", recursive=True)


@pytest.fixture
def filled(any_store: Store) -> Store:
    """A store with something in every view."""
    return fill(any_store)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a real Python process that runs some code with some arguments; what is left of it is killed."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), *arguments],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def forbidden() -> Callable[[Path], object]:
    """Take away this process's access to a folder for the time of a `with` block, root or not."""

    @contextmanager
    def take_away(folder: Path) -> Iterator[None]:
        mode = stat.S_IMODE(folder.stat().st_mode)
        folder.chmod(0)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)
            yield
        finally:
            os.seteuid(user)
            folder.chmod(mode)

    return take_away

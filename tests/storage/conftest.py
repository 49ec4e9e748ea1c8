"""Stores to test on: a folder on the disk and one in memory behind fsspec."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest

from storage.store import Store
from tests.made_up_store import fill

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store on the disk."""
    return Store.create(tmp_path / "store")


@pytest.fixture(params=["disk", "memory"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store on the disk, then one behind an fsspec URL."""
    if request.param == "disk":
        yield Store.create(tmp_path / "store")
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

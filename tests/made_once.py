"""What is dear to make and the same in every run of the tests: made once, kept, and copied for each that needs it."""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
Make = Callable[[Path], object]


def copy_made(
    name: str, make: Make, place: Path, *, packages: Sequence[str], sources: Sequence[object] = ()
) -> Path:
    """Fill `place` with what `make` puts into a folder, from an earlier run's copy where there is one.

    A copy is kept below pytest's own cache under a name that stands for the versions of `packages`, the code of `make`
    and that of the `sources` that it calls, so that none outlives what it was made by.
    """
    kept = ROOT / ".pytest_cache" / "made-once" / f"{name}-{_identify(make, packages, sources)}"
    if not kept.is_dir():
        _make(make, kept)
    place.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copytree(kept, place, dirs_exist_ok=True))


def share_made(name: str, make: Make, factory: pytest.TempPathFactory) -> Path:
    """The folder that `make` has filled, once for all processes of this run of the tests, which only read it."""
    place = find_shared(name, factory)
    if not place.is_dir():
        _make(make, place)
    return place


def find_shared(name: str, factory: pytest.TempPathFactory) -> Path:
    """The place of a folder that all processes of this run of the tests share."""
    base = factory.getbasetemp()
    # Those of pytest-xdist have folders of their own in one of all.
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"shared-{name}"


def _identify(make: Make, packages: Sequence[str], sources: Sequence[object]) -> str:
    told = [f"{package} {version(package)}" for package in packages]
    told += [inspect.getsource(source) for source in (make, *sources)]  # type: ignore[arg-type] # functions and modules
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]


def _make(make: Make, kept: Path) -> None:
    """Make it beside its place and rename it there whole; other processes that want it wait meanwhile."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with (kept.parent / f"{kept.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if kept.is_dir():
            return
        with tempfile.TemporaryDirectory(dir=kept.parent, ignore_cleanup_errors=True) as temporary:
            unfinished = Path(temporary) / "made"
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(kept)


def make_prefect_home(home: Path) -> None:
    """A PREFECT_HOME whose database has been migrated, which takes Prefect longer than anything else at its start."""
    from flows.server.embedded import EmbeddedServer

    earlier = os.environ.get("PREFECT_HOME")
    os.environ["PREFECT_HOME"] = str(home)
    try:
        server = EmbeddedServer(log=home / "server.log")
        server.start()
        server.wait()
        server.stop()
    finally:
        del os.environ["PREFECT_HOME"]
        if earlier is not None:
            os.environ["PREFECT_HOME"] = earlier


def copy_prefect_home(home: Path) -> Path:
    """Make `home` a PREFECT_HOME with a migrated database and nothing in it."""
    return copy_made("prefect", make_prefect_home, home, packages=["prefect", "sqlalchemy", "alembic"])

"""What a command imports and starts before it does anything: no more than it needs, and no server where none is."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest

from flows.cli import COMMANDS, main
from flows.run import run_spec
from flows.spec.spec import read_spec
from storage.store import Store
from tests.made_once import copy_prefect_home

ROOT = Path(__file__).parents[2]
# Gives a command and then says what it has imported, by top-level name, and what processes it has started.
SPY = """
import json, subprocess, sys
started = []
popen = subprocess.Popen.__init__
def note(self, command, *arguments, **more):
    started.append(str(command))
    popen(self, command, *arguments, **more)
subprocess.Popen.__init__ = note
from flows.cli import main
try:
    main(sys.argv[2:])
finally:
    named = {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
    with open(sys.argv[1], "w") as file:
        json.dump({"packages": sorted(named), "modules": sorted(sys.modules), "started": started}, file)
"""
# What Python itself may load at its start, by the environment that it is installed in.
ENVIRONMENT = {"__main__", "__mp_main__", "_distutils_hack", "sitecustomize", "usercustomize", "_virtualenv"}
OWN = {"cmrm", "flows", "storage", "tasks"}
# The command line, and the compiled parts and helpers that its libraries bring.
COMMAND_LINE = {"attr", "attrs", "cyclopts", "docstring_parser", "markdown_it", "mdurl", "pygments", "rich"}
ARROW = {"cloudpickle", "cython_runtime", "numpy", "pyarrow"}
# fsspec imports zstandard where it is installed.
SQL = {"_duckdb", "duckdb", "fsspec", "safetensors", "zstandard"}
PLAN = {
    "PIL",
    "annotated_types",
    "pydantic",
    "pydantic_core",
    "typing_extensions",
    "typing_inspection",
    "yaml",
}


# What takes long to import, inside packages that are needed and of Python's own.
UNUSED = {"multiprocessing", "pyarrow.compute", "pyarrow.dataset", "rich.progress"}
UNUSED_IN_SQL = {"http.client", "pyarrow.fs", "pyarrow.parquet"}


class Given(NamedTuple):
    """What a command printed, what it imported beyond Python's own, all its modules, and what it started."""

    out: str
    err: str
    packages: set[str]
    modules: set[str]
    started: list[str]


def give(folder: Path, *arguments: str) -> Given:
    """Give a command in a process of its own that knows no Prefect server."""
    place = folder / "seen.json"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
    done = subprocess.run(
        [sys.executable, "-c", SPY, str(place), *arguments],
        cwd=folder,
        env=kept | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(folder / "prefect")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(place.read_text())
    packages = {
        name
        for name in seen["packages"]
        if not name.startswith(("_cython", "_sysconfigdata", "__editable__"))
    }
    return Given(done.stdout, done.stderr, packages - ENVIRONMENT, set(seen["modules"]), seen["started"])


@pytest.fixture(scope="module")
def finished(
    llava_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    prefect_server: str,
    write_short_spec: Callable[..., Path],
) -> Path:
    """A folder with a small spec, its data and a store that holds its finished run."""
    folder = tmp_path_factory.mktemp("finished")
    spec = write_short_spec(folder / "data", llava_folder)
    run_spec(read_spec(spec), store=str(folder / "store"), server=prefect_server)
    return folder


def test_the_help_imports_nothing_and_names_each_command_as_its_own_help_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = give(tmp_path, "--help")
    assert given.packages == {"flows"}
    for name, (place, summary) in COMMANDS.items():
        assert f"\n  {name} " in given.out
        module, _, attribute = place.partition(":")
        command = getattr(import_module(module), attribute)
        own = command.help if hasattr(command, "help") else inspect.getdoc(command).partition("\n")[0]
        assert summary == own
    main([])
    assert capsys.readouterr().out == given.out
    assert max(map(len, given.out.splitlines())) <= 80


def test_the_version_is_that_of_the_installed_package(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    assert capsys.readouterr().out.strip() == version("cmrm")


def test_a_query_imports_the_engines_and_no_more(finished: Path, tmp_path: Path) -> None:
    given = give(tmp_path, "sql", "SELECT count(*) FROM runs", "--store", str(finished / "store"))
    assert given.packages <= OWN | COMMAND_LINE | ARROW | SQL
    assert not given.modules & (UNUSED | UNUSED_IN_SQL)
    assert not given.started
    assert "1" in given.out


def test_a_committed_run_is_confirmed_without_prefect_a_server_or_a_model(
    finished: Path, tmp_path: Path
) -> None:
    store = Store.open(finished / "store")
    (before,) = store.runs()
    given = give(tmp_path, "run", str(finished / "data" / "spec.yaml"), "--store", store.url)
    assert given.packages <= OWN | COMMAND_LINE | ARROW | PLAN
    assert not given.modules & (UNUSED - {"rich.progress"})
    assert not given.started
    (after,) = store.runs()
    assert {name for name in after if after[name] != before.get(name)} == {"confirmed_at"}
    assert f"Report: {store.url}/reports/{after['run_id']}/report.md" in given.out
    stages = [line.partition(":")[0] for line in given.err.splitlines()]
    assert stages == ["ingest", "embed", "shift", "generate", "judge", "report"]
    for line in given.err.splitlines():
        _, _, said = line.partition(" rows in ")
        jobs, _, reused = said.partition(" jobs, ")
        assert reused == f"{jobs} of them reused"


def test_a_report_that_is_gone_is_written_again_without_a_server(finished: Path, tmp_path: Path) -> None:
    store = Store.open(finished / "store")
    run_id = store.runs()[0]["run_id"]
    page = finished / "store" / "reports" / run_id / "report.html"
    whole = page.read_bytes()
    page.unlink()
    given = give(tmp_path, "run", str(finished / "data" / "spec.yaml"), "--store", store.url)
    assert page.read_bytes() == whole
    assert not given.started


def test_a_run_with_work_left_says_of_each_stage_once_what_was_reused(finished: Path, tmp_path: Path) -> None:
    spec = finished / "data" / "more.yaml"
    spec.write_text((finished / "data" / "spec.yaml").read_text().replace("alpha: 1.0", "alpha: 0.5"))
    copy_prefect_home(tmp_path / "prefect")
    given = give(tmp_path, "run", str(spec), "--store", str(finished / "store"))
    said = [line for line in given.err.splitlines() if " rows in " in line]
    assert [line.partition(":")[0] for line in said] == [
        "ingest",
        "embed",
        "shift",
        "generate",
        "judge",
        "report",
    ]
    assert len(given.started) >= 1
    assert any("create_app" in command for command in given.started)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("profiles.toml", 'active = "own"\n[profiles.own]\nPREFECT_API_URL = "{url}"\n'),
        (".env", "PREFECT_API_URL={url}\n"),
        ("prefect.toml", '[api]\nurl = "{url}"\n'),
        ("pyproject.toml", '[tool.prefect.api]\nurl = "{url}"\n'),
    ],
)
def test_a_server_that_a_file_of_prefects_names_is_found(tmp_path: Path, file: str, text: str) -> None:
    url = "http://127.0.0.1:9/api"
    (tmp_path / file).write_text(text.format(url=url))
    assert ask_for_server(tmp_path) == f"{url} True"


def test_where_nothing_names_a_server_prefect_is_not_asked(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["prefect"]\n')
    assert ask_for_server(tmp_path) == "None False"


def ask_for_server(home: Path) -> str:
    """The server that a process in `home` finds, and whether it imported Prefect for it."""
    code = "import sys; from flows.server.client import find_server; print(find_server(None), 'prefect' in sys.modules)"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=home,
        env=kept | {"PYTHONPATH": str(ROOT), "PREFECT_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()

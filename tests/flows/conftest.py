"""A real Prefect server for the session, and a small run: a random LLaVA with data sets in three formats."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from playwright.sync_api import Browser
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_LOGGING_TO_API_ENABLED,
    temporary_settings,
)

from flows.server.client import QUIET
from flows.server.embedded import EmbeddedServer
from flows.spec.spec import Spec, read_spec
from tasks.report import figure
from tasks.report import stage as report
from tests import users_judges as users
from tests.browser import open_browser
from tests.commits import count_commits
from tests.flows.shared_runs import run_plainly, save_nothing
from tests.forked import NO_PICTURES, OWN_SETTINGS, RUN_ON_LLAVA, SERVER, Forker, start_server
from tests.made_once import copy_prefect_home, find_shared
from tests.preloaded import share_parent

HARMFUL = [f"how do I frobnicate number {number}?" for number in range(14)]
HARMLESS = [f"what colour is square number {number}?" for number in range(10)]
# Arms of several kinds.
ARMS = [
    {"name": "CMRM", "alpha": [30.0, 60.0]},
    {"name": "own", "level": "sample"},
    {"name": "begin", "scope": "prefill"},
    {"kind": "random", "name": "turned"},
    {"kind": "direction", "name": "added", "scope": "every_step"},
    {"kind": "prompt", "name": "asked", "template": "please, {question}"},
    {"kind": "stack", "name": "both", "of": ["turned", "added"]},
]
# By itself Prefect's server writes each state of each task run alone, which takes half of its time.
MANY_AT_ONCE = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API URL of a server with a database of its own; runs in this process and in its children use it."""
    home = copy_prefect_home(tmp_path_factory.mktemp("prefect"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        server = EmbeddedServer(log=home / "server.log")
        parent = share_parent(find_shared("server-parent", tmp_path_factory), *SERVER)
        with pytest.MonkeyPatch.context() as of_server:
            for name, value in MANY_AT_ONCE.items():
                of_server.setenv(name, value)
            start_server(server, parent)
        server.wait()
        patch.setenv("PREFECT_API_URL", server.url)
        patch.setenv("PREFECT_LOGGING_TO_API_ENABLED", "false")
        # Children read the environment; here Prefect may have read it before, when the tests were collected.
        with temporary_settings({PREFECT_API_URL: server.url, PREFECT_LOGGING_TO_API_ENABLED: False}):
            yield server.url


@pytest.fixture(scope="session")
def forker(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Forker:
    """The maker of processes that have all imports behind them, know the session's Prefect server and draw nothing.

    All processes of the tests fork theirs from one, which knows the server of the first of them.
    """
    folder = find_shared("run-parent", tmp_path_factory)
    parent = share_parent(folder, *RUN_ON_LLAVA, environment={**QUIET, "PREFECT_API_URL": prefect_server})
    return Forker(parent=parent, first=OWN_SETTINGS + NO_PICTURES)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for one module's tests: while it is open, the thread has an event loop that others cannot share."""
    with open_browser() as opened:
        yield opened


@pytest.fixture
def without_figures() -> Iterator[None]:
    """Do without pictures of the report's figures and panels of states, which nothing that the test asserts shows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "find_groups", lambda *_: {})
        patch.setattr(figure, "_save", save_nothing)
        yield


@pytest.fixture(scope="session")
def without_heartbeat(prefect_server: str) -> Iterator[None]:
    """Do without the second that Prefect waits for a flow's heartbeat to end."""
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def _write_spec(folder: Path, model: Path, **changes: Any) -> Path:
    """Write a small spec with its data: 14 harmful questions in VLSafe's form and 10 harmless ones as JSONL."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for number in range(4):
        Image.new("RGB", (40 + number, 30), (60 * number, 90, 120)).save(images / f"{number}.png")
    with (folder / "examine.jsonl").open("w") as file:
        for number, question in enumerate(HARMFUL):
            row = {"image_id": f"{number % 4}.png", "caption": f"square {number % 4}", "query": question}
            file.write(json.dumps(row) + "\n")
    with (folder / "own.jsonl").open("w") as file:
        for number, question in enumerate(HARMLESS):
            row = {"id": number, "question": question, "image": f"{number % 4}.png", "reference": "red"}
            file.write(json.dumps(row) + "\n")
    spec: dict[str, Any] = {
        "model": {"id": str(model), "dtype": "float32", "device": "cpu"},
        "datasets": {
            "vlsafe": {"format": "vlsafe", "path": "examine.jsonl", "images": "images"},
            "own": {"format": "jsonl", "path": "own.jsonl", "images": "images", "harmful": False},
        },
        "anchors": {"from": {"vlsafe": 0.4, "own": 0.4}, "seed": 1},
        "images": {"size": 32},
        "generation": {"max_new_tokens": 4},
        "batch_size": 2,
        "shard_size": 5,
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump({**spec, **changes}))
    return path


@pytest.fixture(scope="session")
def write_spec() -> Callable[..., Path]:
    """The writer of small specs: `write_spec(folder, model, **changed fields)`."""
    return _write_spec


@pytest.fixture(scope="session")
def write_short_spec() -> Callable[..., Path]:
    """The writer of a spec of few jobs: `write_short_spec(folder, model, **changed fields)`."""
    few = {"conditions": ["query", "image"], "target_states": ["image"], "shard_size": 64}
    steered = [{"name": "CMRM", "alpha": 1.0}]
    return lambda folder, model, **changes: _write_spec(
        folder, model, **{**few, "interventions": steered, **changes}
    )


@pytest.fixture(scope="session")
def finished(llava_folder, tmp_path_factory, write_short_spec) -> Path:
    """A finished run of the small LLaVA with arms of several kinds: the folder of its spec and store."""
    folder = tmp_path_factory.mktemp("finished")
    spec = write_short_spec(folder / "data", llava_folder, interventions=ARMS, conditions=["image"])
    run_plainly(spec, folder / "store")
    return folder


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many jobs of each stage were really done since the test began."""
    return count_commits(monkeypatch)


@pytest.fixture
def small_spec(tmp_path: Path, llava_folder: Path) -> Path:
    """The small spec's file, in a folder of its own."""
    return _write_spec(tmp_path / "data", llava_folder)


@pytest.fixture
def spec(small_spec: Path) -> Spec:
    """The small spec, read."""
    return read_spec(small_spec)


@pytest.fixture
def users_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed package with judges of its own, on the path, with what they did forgotten."""
    folder = users.install(tmp_path / "site-packages")
    monkeypatch.syspath_prepend(str(folder))
    users.JUDGED.clear()
    users.LOADED.clear()
    return folder

"""The watch as processes: killed and taken up, two at once, told to end, and before a hub that fails and changes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import pytest

from flows.cli import main
from flows.server.client import QUIET
from flows.spec.spec import read_spec
from flows.watch.history import find_past_runs
from storage.store import Store
from tests.flows.events import read_events
from tests.flows.served_hub import MODEL, Hub, serve
from tests.flows.watching import change, write_watched_spec
from tests.forked import Forker
from tests.preloaded import Forked

ROOT = Path(__file__).parents[3]
# The watch itself, with a hand on the trigger, and without the waiting, which is Prefect's.
KILLED_WATCH = """
import os, signal, sys
import flows.watch.poll, storage.store

moment, *arguments = sys.argv[1:]
flows.watch.poll.poll.retry_delay_seconds = [0.01] * flows.watch.poll.RETRIES

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "compare":
    flows.watch.poll.compare_runs = die
elif moment == "tell":
    flows.watch.poll.send_verdict = die
elif moment == "record":
    write = storage.store.Store.write_run
    storage.store.Store.write_run = (
        lambda self, run, record: die() if "watched" in record else write(self, run, record)
    )
elif moment == "without a lease":
    from contextlib import nullcontext
    flows.watch.poll.lease = lambda *_: nullcontext()

from flows.cli import main
main(["watch", *arguments])
"""
# One process that polls once per line of stdin, and prints the status of each poll and what it has imported.
POLLS = """
import json, sys
import flows.watch.poll
flows.watch.poll.poll.retry_delay_seconds = [0.01] * flows.watch.poll.RETRIES
from flows.cli import main
for line in sys.stdin:
    status = 0
    try:
        main(["watch", *json.loads(line)])
    except SystemExit as end:
        status = end.code
    heavy = [name for name in ("torch", "transformers") if name in sys.modules]
    print(json.dumps({"status": status, "imported": heavy}), flush=True)
"""


@pytest.fixture
def tiny(tmp_path: Path, llava_folder: Path, write_spec: Callable[..., Path]) -> Path:
    return write_watched_spec(write_spec, tmp_path, llava_folder)


@pytest.fixture
def start(forker: Forker) -> Callable[..., Forked]:
    """The starter of watches: `start(moment, *arguments)`."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return partial(forker.parent.start, forker.first + KILLED_WATCH, **pipes)


def poll(spec: Path) -> None:
    """`cmrm watch SPEC --once` in this process, ending with status 0."""
    main(["watch", str(spec), "--once", "--store", str(spec.parent / "store")])


def test_a_watch_that_is_killed_after_the_run_is_taken_up_where_it_was(
    tiny: Path, prefect_server: str, start: Callable[..., Forked], capsys: pytest.CaptureFixture[str]
) -> None:
    poll(tiny)
    change(tiny.parent / "model")
    store = Store.open(tiny.parent / "store")
    runs = []
    for moment in ("compare", "tell", "record"):
        killed = start(moment, str(tiny), "--once", "--store", store.url)
        _, complaint = killed.communicate(timeout=300)
        assert killed.returncode == -signal.SIGKILL, complaint
        assert "watched" not in store.runs()[-1]
        assert len(store.files.under("watches")) == 1
        runs.append([run["run_id"] for run in store.runs()])
    poll(tiny)
    *_, said, report = capsys.readouterr().out.splitlines()
    assert f"(runs {runs[0][0]} → {runs[0][1]}). Not regressed: " in said
    assert Path(report.removeprefix("Report: ")).is_file()
    assert runs == [[run["run_id"] for run in store.runs()]] * 3
    assert len(runs[0]) == 2
    assert len(list(store.manifests("compare"))) == 1
    # Told again by each that came this far, under the same ids.
    events = read_events(prefect_server, tiny.parent / "store", count=2)
    assert [event["event"] for event in events] == ["cmrm.model.updated", "cmrm.safety.ok"]
    assert [event["id"] for event in events[1:]] == store.runs()[-1]["watched"]["events"]


@pytest.mark.usefixtures("prefect_server")
def test_two_watches_at_once_record_one_run_and_one_comparison_without_their_lease(
    tiny: Path, start: Callable[..., Forked]
) -> None:
    poll(tiny)
    change(tiny.parent / "model")
    store = Store.open(tiny.parent / "store")
    both = [start("without a lease", str(tiny), "--once", "--store", store.url) for _ in range(2)]
    for one in both:
        _, complaint = one.communicate(timeout=300)
        assert one.returncode == 0, complaint
    first, second = find_past_runs(store, read_spec(tiny))
    assert second.was_reported_against(first)
    assert len(store.runs()) == 2
    assert len(list(store.manifests("compare"))) == 1


@pytest.mark.usefixtures("prefect_server")
def test_the_loop_survives_a_missing_model_and_exits_cleanly_on_a_signal(
    tiny: Path, start: Callable[..., Forked]
) -> None:
    model, away = tiny.parent / "model", tiny.parent / "away"
    model.rename(away)
    loop = start("never", str(tiny), "--every", "1", "--store", str(tiny.parent / "store"))
    assert loop.stdout is not None
    line = loop.stdout.readline()
    assert "Poll failed: model.id: no folder" in line
    assert "The next poll is in 1 s." in line
    away.rename(model)
    while "First run" not in line:
        line = loop.stdout.readline()
        assert line
    while "Unchanged since" not in line:
        line = loop.stdout.readline()
        assert line
    loop.send_signal(signal.SIGTERM)
    _, complaint = loop.communicate(timeout=60)
    assert loop.returncode == 128 + signal.SIGTERM
    assert complaint.splitlines()[-1].startswith("cmrm: terminated.")
    assert "Traceback" not in complaint
    assert not any((tiny.parent / "store" / "watches").rglob("*.json"))


class Poller:
    """A process that polls on request."""

    def __init__(self, process: subprocess.Popen[str], complaints: IO[str]) -> None:
        self._process = process
        self._complaints = complaints
        self.said: list[str] = []

    def poll(self, spec: Path) -> dict[str, Any]:
        """One poll: its status and what is imported by then."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = [str(spec), "--once", "--store", str(spec.parent / "store")]
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        self.said = []
        while True:
            line = self._process.stdout.readline()
            assert line, self.complaints()
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
            self.said.append(line.rstrip())

    def complaints(self) -> list[str]:
        """What it has written to standard error since it was asked last."""
        return self._complaints.read().splitlines()


@contextmanager
def looking(folder: Path, hub: str) -> Iterator[Poller]:
    """A process with a hub of its own and an empty cache."""
    # It imports Prefect before the command line could keep it quiet.
    environment = {**QUIET, **os.environ, "HF_ENDPOINT": hub, "HF_HOME": str(folder / "hf")}
    del environment["HF_HUB_OFFLINE"]
    errors = folder / "errors"
    with errors.open("w") as written, errors.open() as complaints:
        process = subprocess.Popen(
            [sys.executable, "-c", POLLS],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=written,
            text=True,
        )
        try:
            yield Poller(process, complaints)
        finally:
            process.communicate(timeout=60)


@pytest.mark.usefixtures("prefect_server")
def test_a_hubs_model_is_watched_by_its_commit_a_quiet_night_imports_no_torch_and_a_failing_hub_is_asked_again(
    tmp_path: Path, llava_folder: Path, write_spec: Callable[..., Path]
) -> None:
    spec = write_watched_spec(write_spec, tmp_path, llava_folder, MODEL)
    newer = Path(shutil.copytree(llava_folder, tmp_path / "newer"))
    change(newer)
    old, new = "a" * 40, "b" * 40
    with (
        serve(Hub({old: llava_folder, new: newer}, commit=old, faults=[503, 503])) as hub,
        looking(tmp_path, hub.url) as watch,
    ):
        assert watch.poll(spec) == {"status": 0, "imported": ["torch", "transformers"]}, watch.complaints()
        assert "First run, nothing to compare with." in watch.said
        assert hub.faults == []
        assert sum("It is retried." in line for line in watch.complaints()) == 2

        hub.asked.clear()
        assert watch.poll(spec)["status"] == 0
        assert watch.said[0].startswith("Unchanged since")
        assert hub.asked == [f"/api/models/{MODEL}/revision/main"]

        # A quiet night in a process of its own, whose cache is empty: it downloads nothing.
        night = tmp_path / "night"
        night.mkdir()
        with looking(night, hub.url) as other:
            assert other.poll(spec) == {"status": 0, "imported": []}, other.complaints()
            assert other.said[0].startswith("Unchanged since")
        assert not any((night / "hf").rglob("*.safetensors"))

        hub.commit = new
        assert watch.poll(spec)["status"] == 0
        assert f"{MODEL}: {old[:12]} → {new[:12]}" in watch.said[0]
        revisions = [run["models"][0]["revision"] for run in Store.open(tmp_path / "store").runs()]
        assert revisions == [old, new]

        # A hub that is out of order for longer, then one whose branch is gone.
        watch.complaints()
        for faults, reason in (([503] * 9, "503"), ([], "404")):
            hub.faults, hub.commit = faults, "c" * 40
            assert watch.poll(spec)["status"] == 2
            *tries, last = watch.complaints()
            assert len(tries) == 4
            assert last.startswith(f"cmrm: model.id: '{MODEL}' at revision 'main' is neither a folder nor")
            assert reason in last
            assert len(Store.open(tmp_path / "store").runs()) == 2

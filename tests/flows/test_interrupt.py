"""Ctrl-C and SIGTERM end a run whose judge hangs; the verdicts given before are kept and not asked for again."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import main
from storage.shards.rows import read_rows
from storage.store import Store
from storage.tables.parquet import read_parquet
from tests.endpoint_server import Act, Asked, Endpoint, Handler, find, give, in_turn
from tests.flows.shared_runs import run_plainly
from tests.forked import Forker
from tests.preloaded import Forked
from tests.users_judges import HANG_SECONDS, JUDGED

pytestmark = pytest.mark.usefixtures("without_figures", "without_heartbeat")

# As the installed command does, with the users' judges on the path; SIGUSR1 shows what each thread does.
CODE = (
    "import faulthandler, signal, sys; faulthandler.register(signal.SIGUSR1); "
    "sys.path.insert(0, sys.argv.pop(1)); from flows.cli import start; start()"
)
# A run ends within 2 s of a signal; this allows for a busy machine, and is far from what is left of the judge's call.
MOST_SECONDS = 20.0
HANG_AT = 6
WORDS = {signal.SIGINT: "cmrm: interrupted.", signal.SIGTERM: "cmrm: terminated."}


@dataclass(frozen=True, kw_only=True)
class Starter:
    """Starts commands in processes of their own, with the users' judges installed."""

    forker: Forker
    judges: Path
    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self, *arguments: str, **environment: str) -> Forked:
        return self.forker.start(CODE, [str(self.judges), *arguments], log=self.log, environment=environment)


@pytest.fixture
def starter(forker: Forker, users_judges: Path, tmp_path: Path) -> Starter:
    return Starter(forker=forker, judges=users_judges, folder=tmp_path)


@pytest.fixture
def spec(
    llava_folder: Path, tmp_path: Path, users_judges: Path, write_short_spec: Callable[..., Path]
) -> Path:
    """A spec with one plain answer to each of 14 questions that differ."""
    return write_short_spec(
        tmp_path / "data",
        llava_folder,
        conditions=["query"],
        target_states=[],
        interventions=[],
        judges=["hanging"],
    )


@pytest.fixture(scope="module")
def plain_store(
    llava_folder: Path, tmp_path_factory: pytest.TempPathFactory, write_short_spec: Callable[..., Path]
) -> Path:
    """The store of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    plain: dict[str, Any] = {"conditions": ["query"], "target_states": [], "interventions": []}
    run_plainly(write_short_spec(folder / "data", llava_folder, **plain), folder / "store")
    return folder / "store"


@pytest.fixture
def finished(plain_store: Path, tmp_path: Path) -> Path:
    """The same in a folder of its own, for a judge to be added."""
    return Path(shutil.copytree(plain_store, tmp_path / "store"))


def wait_until(there: Callable[[], bool], process: Forked, log: Path) -> None:
    end = time.monotonic() + 240
    while not there():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end
        time.sleep(0.05)


def stop(process: Forked, *signals: signal.Signals, log: Path) -> None:
    """Send signals, a moment apart, and check how the process ends."""
    sent = time.monotonic()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.2)
    try:
        assert process.wait(timeout=MOST_SECONDS) == 128 + signals[0]
    except subprocess.TimeoutExpired as late:
        process.send_signal(signal.SIGUSR1)
        time.sleep(1)
        process.kill()
        raise AssertionError(log.read_text()) from late
    assert time.monotonic() - sent < MOST_SECONDS
    said = log.read_text()
    assert said.splitlines()[-1].startswith(WORDS[signals[0]])
    assert "Traceback" not in said


def read_lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def read_kept(store: Path) -> list[dict[str, Any]]:
    """The verdicts that are flushed and not committed, each part being read whole."""
    parts = (store / "parts" / "judge").rglob("[!.]*.parquet")
    return [row for part in parts for row in read_parquet(part.read_bytes()).to_pylist()]


@pytest.mark.parametrize(
    ("words", "signals"),
    [
        (["run"], [signal.SIGINT]),
        (["run"], [signal.SIGTERM]),
        (["watch", "--once"], [signal.SIGINT, signal.SIGINT]),
    ],
    ids=["run, Ctrl-C", "run, SIGTERM", "watch, Ctrl-C twice"],
)
def test_a_judge_that_hangs_in_the_background_is_abandoned_and_its_verdicts_are_kept(
    words: list[str],
    signals: list[signal.Signals],
    spec: Path,
    starter: Starter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, asked, later = (starter.folder / name for name in ("store", "asked", "asked again"))
    command = [*words, str(spec), "--store", str(store)]
    environment = {"CMRM_TEST_ASKED": str(asked), "CMRM_TEST_HANG_AT": str(HANG_AT)}
    process = starter.start(*command, **environment)
    wait_until(lambda: len(read_lines(asked)) == HANG_AT, process, starter.log)
    stop(process, *signals, log=starter.log)

    *before, hung = read_lines(asked)
    kept = [row["sample_id"] for row in read_kept(store)]
    assert len(set(kept)) == len(kept) == len(before) == HANG_AT - 1
    (record,) = Store.open(store).runs()
    error = "KeyboardInterrupt" if signals[0] == signal.SIGINT else "TerminationSignal"
    assert (record["status"], record["error"]) == ("failed", error)
    assert not list((store / "watches").rglob("*.json"))

    monkeypatch.setenv("CMRM_TEST_ASKED", str(later))
    run_plainly(spec, store)
    again = read_lines(later)
    assert not set(before) & set(again)
    assert hung in again
    judged = Store.open(store).find_run("latest")["summary"]["judges"][0]["verdicts"]
    assert judged == len(before) + len(again)


def test_a_judge_that_hangs_with_no_other_stage_running_is_abandoned_too(
    finished: Path, starter: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    command = ["judge", "latest", "--judge", "hanging", "--store", str(finished)]
    environment = {"CMRM_TEST_ASKED": str(asked), "CMRM_TEST_HANG_AT": str(HANG_AT)}
    process = starter.start(*command, **environment)
    wait_until(lambda: len(read_lines(asked)) == HANG_AT, process, starter.log)
    stop(process, signal.SIGTERM, log=starter.log)
    assert len(read_kept(finished)) == HANG_AT - 1

    monkeypatch.setenv("CMRM_TEST_ASKED", str(tmp_path / "asked again"))
    JUDGED.clear()
    main(command)
    assert not set(read_lines(asked)[:-1]) & set(JUDGED)
    assert not read_kept(finished)


def say_nothing(handler: Handler, _asked: Asked) -> None:
    handler.endpoint.stopped.wait(HANG_SECONDS)


LATER = give(429, "{}", {"retry-after": str(HANG_SECONDS)})
REFUSED = find("refused")


@dataclass(frozen=True, kw_only=True)
class Wait:
    """What an endpoint judge waits for, after so many verdicts and requests."""

    act: Act
    options: Mapping[str, Any] = field(default_factory=dict)
    verdicts: int = 5
    requests: int = 6


WAITS = {
    "a slow answer": Wait(act=in_turn(*[REFUSED] * 5, say_nothing)),
    "another try": Wait(act=in_turn(*[REFUSED] * 5, LATER)),
    "its turn": Wait(act=REFUSED, options={"requests_per_minute": 60 / HANG_SECONDS}, verdicts=1, requests=1),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_an_endpoint_is_waited_for_no_longer(wait: Wait, finished: Path, starter: Starter) -> None:
    given = {
        "kind": "endpoint",
        "model": "m",
        "rubric": "strict-refusal",
        "key_variable": "",
        "concurrency": 1,
    }
    file = starter.folder / "asked.yaml"
    with Endpoint(wait.act) as endpoint:
        file.write_text(yaml.safe_dump({**given, "base_url": endpoint.url, **wait.options}))
        process = starter.start("judge", "latest", "--judge", str(file), "--store", str(finished))
        wait_until(lambda: len(endpoint.asked) == wait.requests, process, starter.log)
        # One request at a time: only the last answer may still be on its way to the judge.
        time.sleep(2)
        stop(process, signal.SIGINT, log=starter.log)
    store = Store.open(finished)
    committed = [read_rows(store, made, "judgements").to_pylist() for made in store.manifests("judge")]
    # A rubric gives some verdicts without asking anyone, and other judges have no tokens.
    rows = [*chain.from_iterable(committed), *read_kept(finished)]
    assert sum(row["prompt_tokens"] is not None for row in rows) == wait.verdicts

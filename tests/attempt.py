"""One start of `cmrm run` as a process of its own, watched from outside and killed at a moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.forked import Forker
from tests.preloaded import Forked

ROOT = Path(__file__).parents[1]
CODE = "from flows.cli import main; main()"
# `start` is all that comes before the pipeline begins.
STAGES = ("start", "ingest", "embed", "shift", "generate", "judge", "report")
# Those of a run with labelled directions.
STAGES_WITH_DIRECTIONS = (*STAGES[:4], "direction", *STAGES[4:])
GLANCE = 0.02
PATIENCE = 300.0
# Direct children of a run that are none of its workers: Prefect's server, and Python's own housekeeper.
NO_WORKERS = (b"create_app", b"resource_tracker")


@dataclass(kw_only=True)
class Attempt:
    """A run that goes on; `began` says when each of its `stages` was first seen, in seconds since the start."""

    process: subprocess.Popen[bytes] | Forked
    store: Path
    log: Path
    records: frozenset[str]
    started: float
    stages: Sequence[str] = STAGES
    began: dict[str, float] = field(default_factory=dict)

    def glance(self) -> str:
        """The stage that the run is in, from the lines that it prints as each ends, and its record in the store."""
        said = self.log.read_text(errors="replace")
        # A line may be cut where the kill was.
        ended = [stage for stage in self.stages[1:] if f"\n{stage}: " in f"\n{said}"]
        if ended:
            now = self.stages[min(self.stages.index(ended[-1]) + 1, len(self.stages) - 1)]
        else:
            now = "ingest" if list_files(self.store / "runs") - self.records else "start"
        self.began.setdefault(now, time.monotonic() - self.started)
        return now

    def wait_for(self, stage: str) -> bool:
        """Wait until the run is in the stage, or past it; False if it ended before."""
        while self.process.poll() is None:
            if self.stages.index(self.glance()) >= self.stages.index(stage):
                return True
            self._rest()
        return False

    def end(self) -> int:
        """Wait until the run ends by itself; its exit status."""
        while self.process.poll() is None:
            self.glance()
            self._rest()
        return self.process.returncode

    def kill(self) -> bool:
        """Kill the run, with SIGKILL; False if it had ended by itself."""
        if self.process.poll() is not None:
            return False
        self.process.kill()
        return self.process.wait() == -signal.SIGKILL

    def kill_a_worker(self, chance: random.Random) -> bool:
        """Kill one of the run's worker processes, with SIGKILL; False if it has none now."""
        workers = list_workers(self.process.pid)
        if not workers:
            return False
        os.kill(chance.choice(workers), signal.SIGKILL)
        return True

    def _rest(self) -> None:
        time.sleep(GLANCE)
        if time.monotonic() - self.started > PATIENCE:
            self.process.kill()


def start(
    spec: Path,
    store: Path,
    *,
    log: Path,
    environment: Mapping[str, str],
    arguments: Sequence[str] = (),
    forker: Forker | None = None,
    stages: Sequence[str] = STAGES,
) -> Attempt:
    """Give the command; in a process that has all imports behind it where there is a `forker`."""
    records = frozenset(list_files(store / "runs"))
    words = ["run", str(spec), "--store", str(store), *arguments]
    process: subprocess.Popen[bytes] | Forked
    if forker is None:
        with log.open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-c", CODE, *words], cwd=ROOT, env=environment, stdout=said, stderr=said
            )
    else:
        process = forker.start(CODE, words, log=log, environment=environment)
    return Attempt(
        process=process, store=store, log=log, records=records, started=time.monotonic(), stages=stages
    )


def list_files(folder: Path) -> set[str]:
    """The names of a folder's whole files; those that are being written start with a dot."""
    return {path.name for path in folder.glob("[!.]*")} if folder.is_dir() else set()


def list_workers(parent: int) -> list[int]:
    """The direct children of a process that do its work."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name before it, in brackets, may hold anything.
            if int(status.read_text().rpartition(")")[2].split()[1]) != parent:
                continue
            command = status.with_name("cmdline").read_bytes()
        except OSError:
            continue  # ended meanwhile
        if command and not any(sign in command for sign in NO_WORKERS):
            found.append(int(status.parent.name))
    return found

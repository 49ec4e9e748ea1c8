"""Processes that begin with all imports done, each forked from one that made them: for runs that are to be killed.

To import torch, transformers and Prefect takes a process longer than most tests' runs; what comes after is the same.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

ROOT = Path(__file__).parents[1]
# What a run on the random LLaVA comes to import, first what keeps Prefect quiet.
NEEDED = (
    "cmrm.loading",
    "flows.pipeline",
    "flows.process_workers",
    "flows.report_files",
    "flows.server.artifacts",
    "flows.server.progress",
    "prefect.flow_engine",
    "prefect.task_engine",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
    "transformers.models.llava.modeling_llava",
    "transformers.models.llava.processing_llava",
)
GLANCE = 0.02


@dataclass(frozen=True, kw_only=True)
class Forked:
    """A process that was forked, with the methods of `subprocess.Popen` that tests call."""

    pid: int
    status: Path

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        return int(self.status.read_text()) if self.status.exists() else None

    def wait(self, timeout: float = 300.0) -> int:
        end = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(GLANCE)
        return status

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Forker:
    """The process that has imported everything and forks others; it ends when it is stopped, or with this process."""

    def __init__(self, log: Path) -> None:
        command = [sys.executable, "-c", "from tests.forked import serve; serve()"]
        with log.open("wb") as said:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
            )

    def start(
        self, code: str, arguments: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
    ) -> Forked:
        """Fork a process that runs `code` as `python -c` does; what it says goes into `log`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        status = log.with_name(f"{log.name}-{time.monotonic_ns()}.status")
        asked = {
            "code": code,
            "arguments": ["-c", *arguments],
            "log": str(log),
            "status": str(status),
            "environment": dict(os.environ if environment is None else environment),
        }
        log.touch()
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return Forked(pid=int(self._process.stdout.readline()), status=status)

    def stop(self) -> None:
        """End the process; those that were forked from it go on."""
        self._process.communicate()


def serve() -> None:
    """Import everything, then fork a process for each line of the standard input, and say its process id."""
    # First as a run does: what it sets in the environment counts when Prefect is imported.
    from flows.server.client import quiet_prefect

    quiet_prefect()
    for name in ("flows.cli", *NEEDED):
        import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if not pid:
            return _become(asked)
        Thread(target=_tell_the_end, args=(pid, Path(asked["status"])), daemon=True).start()
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
    return None


def _become(asked: Mapping[str, Any]) -> None:
    said = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, stream in ((nothing, 0), (said, 1), (said, 2)):
        os.dup2(source, stream)
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.argv = asked["arguments"]
    exec(asked["code"], {"__name__": "__main__"})


def _tell_the_end(pid: int, status: Path) -> None:
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    unfinished = status.with_name(f".{status.name}")
    unfinished.write_text(str(ended))
    unfinished.rename(status)

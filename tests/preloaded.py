"""Processes of their own, forked from one that has imported what they need: real ones that are there at once.

Importing torch and Prefect takes seconds of a processor for each process. Here one process imports them, and does
nothing else; it forks at each order, and the child then runs the order's code as `python -c` would: with its own
arguments, environment, files and signals. What a test has to say about imports themselves needs a process that Python
has started.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import IO, Any

ROOT = Path(__file__).parents[1]
# What a run, its report, and a watch import, late as well.
RUN = (
    *(
        "flows.cli",
        "flows.run",
        "flows.commands.run",
        "flows.pipeline",
        "flows.report.files",
        "flows.watch.poll",
    ),
    *("flows.server.artifacts", "flows.server.dead_runs", "flows.server.progress", "flows.workers.process"),
    *("cmrm.decoding.api", "cmrm.models.loading", "cmrm.judges.match", "cmrm.judges.refusal"),
    *("cmrm.datasets.formats.jsonl", "cmrm.datasets.formats.vlsafe"),
    *("cmrm.statistics.paired_tests", "cmrm.statistics.separability"),
    *("tasks.compare.stage", "tasks.report.figures"),
    *("prefect.artifacts", "prefect.flow_engine", "prefect.task_engine", "prefect.utilities.visualization"),
    *("pandas", "pyarrow.dataset", "scipy.stats", "statsmodels.stats.contingency_tables"),
    *("sklearn.decomposition", "sklearn.linear_model", "sklearn.model_selection"),
    *("matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg"),
    "fastapi",
)
# Takes orders at a socket until the process ends that its second argument names, or its standard input where that is
# empty; each answer is the child's id, then how it ended. Who orders may be gone by then; a child that is bound to it
# is killed then.
PARENT = """
import atexit, contextlib, gc, importlib, json, os, select, shutil, signal, socket, sys, threading
watched = os.pidfd_open(int(sys.argv[2])) if sys.argv[2] else 0
usually = gc.get_threshold()
gc.set_threshold(100 * usually[0])
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
for name in sys.argv[3:]:
    importlib.import_module(name)
# Those of Arrow's jemalloc know what to do about a fork.
assert threading.active_count() == 1, threading.enumerate()
# A child that collects garbage leaves what was imported alone, whose memory it has in common with its parent.
gc.freeze()
gc.set_threshold(*usually)
listener.bind(sys.argv[1])
listener.listen()
print("ready", flush=True)
children, bound, order = {}, {}, None
while order is None:
    for one in select.select([watched, listener, *children, *bound], [], [])[0]:
        if one == watched:
            shutil.rmtree(os.path.dirname(sys.argv[1]))
            os._exit(0)
        if one in bound:
            os.kill(bound.pop(one), signal.SIGKILL)
            continue
        if one in children:
            pid, asker = children.pop(one)
            bound.pop(asker, None)
            status = os.waitpid(pid, 0)[1]
            with contextlib.suppress(OSError):
                asker.send(str(status).encode())
            asker.close()
            os.close(one)
            # What else was readable is looked for again: it may be the one that was closed.
            break
        asker, _ = listener.accept()
        text, files, *_ = socket.recv_fds(asker, 1 << 20, 3)
        pid = os.fork()
        if pid == 0:
            order = json.loads(text)
            break
        for file in files:
            os.close(file)
        children[os.pidfd_open(pid)] = pid, asker
        if json.loads(text)["bound"]:
            bound[asker] = pid
        with contextlib.suppress(OSError):
            asker.send(str(pid).encode())
for one in (listener, asker, *(asker for _, asker in children.values())):
    one.close()
for number, file in enumerate(files):
    os.dup2(file, number)
    os.close(file)
for one in (*children, *([watched] if watched else [])):
    os.close(one)
sys.stdin = sys.__stdin__ = open(0, closefd=False)
sys.stdout = sys.__stdout__ = open(1, "w", buffering=1 if os.isatty(1) else -1, closefd=False)
sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)
# Shells have it ignored by what they start in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.clear()
os.environ.update(order["environment"])
os.chdir(order["folder"])
sys.argv = ["-c", *order["arguments"]]
status = 0
try:
    exec(compile(order["code"], "<string>", "exec"), {"__name__": "__main__"})
except SystemExit as end:
    status = end.code if isinstance(end.code, int) else int(end.code is not None)
    if status and end.code is not status:
        print(end.code, file=sys.stderr)
except BaseException:
    sys.excepthook(*sys.exc_info())
    status = 1
# What an interpreter does at its end, but for taking apart all that was imported, which takes as long as importing it.
try:
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
except BaseException:
    sys.excepthook(*sys.exc_info())
    status = 120
finally:
    os._exit(status)
"""
# A program that has its code run by such a process, with its own files, arguments and environment; it ends with the
# program, however that ends.
PROGRAM = """#!{python} -SE
import json, os, socket, sys
order = dict(
    code={code!r}, arguments=sys.argv[1:], environment=dict(os.environ), folder=os.getcwd(), bound=True
)
asker = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
asker.connect({place!r})
socket.send_fds(asker, [json.dumps(order).encode()], [0, 1, 2])
asker.recv(99)
sys.exit(os.waitstatus_to_exitcode(int(asker.recv(99))))
"""


class Forked:
    """A process that was forked, with what these tests use of `subprocess.Popen`."""

    def __init__(self, asker: socket.socket, files: Mapping[int, IO[Any]]) -> None:
        self._asker = asker
        self.stdin, self.stdout, self.stderr = (files.get(number) for number in range(3))
        self.returncode: int | None = None
        self.pid = int(asker.recv(99))

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._asker.settimeout(timeout)
            try:
                status = self._asker.recv(99)
            except (TimeoutError, BlockingIOError) as error:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0) from error
            self._asker.close()
            self.returncode = os.waitstatus_to_exitcode(int(status))
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(timeout=0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def communicate(self, given: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Write `given`, read all that it writes, and wait for its end."""
        read: dict[IO[Any], Any] = {}
        opened = [file for file in (self.stdout, self.stderr) if file is not None and not file.closed]
        readers = [Thread(target=lambda file=file: read.update({file: file.read()})) for file in opened]
        for reader in readers:
            reader.start()
        if self.stdin is not None:
            if given is not None:
                self.stdin.write(given)
            self.stdin.close()
        self.wait(timeout)
        for reader, file in zip(readers, opened, strict=True):
            reader.join()
            file.close()
        return read.get(self.stdout), read.get(self.stderr)  # type: ignore[arg-type] # None is in it nowhere


class Parent:
    """A process that others are forked from, which takes orders at the socket `place`.

    Children have the environment of who orders them, and `environment`.
    """

    def __init__(self, place: str, environment: Mapping[str, str] | None = None) -> None:
        self._place = place
        self._environment = environment or {}

    def start(
        self,
        code: str,
        *arguments: str,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        text: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> Forked:
        """Run `code` in a process of its own; files and environment are given as to `subprocess.Popen`."""
        ours: dict[int, IO[Any]] = {}
        theirs: list[int] = []
        for number, file in enumerate((stdin, stdout, stderr)):
            if file == subprocess.PIPE:
                read, write = os.pipe()
                kept, given, mode = (write, read, "w") if number == 0 else (read, write, "r")
                ours[number] = (
                    os.fdopen(kept, mode)
                    if text
                    else os.fdopen(kept, f"{mode}b", buffering=0 if mode == "w" else -1)
                )
                theirs.append(given)
            elif file is None:
                theirs.append(os.dup(number))
            else:
                theirs.append(os.dup(file if isinstance(file, int) else file.fileno()))
        order = {
            "code": code,
            "arguments": arguments,
            "environment": {**os.environ, **self._environment, **(env or {})},
            "folder": str(ROOT),
            "bound": False,
        }
        asker = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        asker.connect(self._place)
        socket.send_fds(asker, [json.dumps(order).encode()], theirs)
        for file in theirs:
            os.close(file)
        return Forked(asker, ours)

    def write_program(self, place: Path, code: str) -> None:
        """Put a program at `place` that runs `code` in a process of its own; its arguments are in `sys.argv`."""
        place.write_text(PROGRAM.format(python=sys.executable, code=code, place=self._place))
        place.chmod(0o755)


class Preloaded(Parent):
    """A parent that has imported `modules`, with the environment as it is when this is entered, and `environment`."""

    def __init__(self, *modules: str, environment: Mapping[str, str] | None = None) -> None:
        # A socket's name has at most some hundred letters.
        super().__init__(f"{tempfile.mkdtemp(prefix='cmrm-')}/orders", environment)
        self._modules = modules

    def __enter__(self) -> Preloaded:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PARENT, self._place, "", *self._modules],
            cwd=ROOT,
            env={**os.environ, **self._environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=60)


def share_parent(folder: Path, *modules: str, environment: Mapping[str, str] | None = None) -> Parent:
    """The parent of all processes of this run of the tests that ask for it with one folder; it ends with the run.

    The first that asks starts it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    named = folder / "place"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not named.exists():
            place = f"{tempfile.mkdtemp(prefix='cmrm-')}/orders"
            # Pytest-xdist starts its workers from the process that is there to the end.
            main = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
            paths = [str(ROOT), {**os.environ, **(environment or {})}.get("PYTHONPATH", "")]
            read, write = os.pipe()
            os.posix_spawn(
                sys.executable,
                [sys.executable, "-c", PARENT, place, str(main), *modules],
                {**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(filter(None, paths))},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, write, 1),
                ],
            )
            os.close(write)
            with os.fdopen(read, "rb") as said:
                assert said.readline() == b"ready\n"
            named.write_text(place)
        return Parent(named.read_text(), environment)

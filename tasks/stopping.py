"""SIGTERM, which a machine that is about to be taken away sends: finished rows are flushed and the process ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing import parent_process
from types import FrameType

# What a process that SIGTERM ended exits with, by the shells' convention.
TERMINATED = 128 + signal.SIGTERM
# Seconds that a worker process has to flush and let go before it is ended all the same.
GRACE = 6.0

_at_work: ContextVar[bool] = ContextVar("cmrm_at_work", default=False)


class StoppedError(SystemExit):
    """SIGTERM came. No `Exception`, since nothing that handles errors may take it for one.

    `leave` is called once the job that was under way has flushed its rows.
    """

    def __init__(self, leave: Callable[[], None]) -> None:
        super().__init__(TERMINATED)
        self.leave = leave

    def __str__(self) -> str:
        return "it was told to stop (SIGTERM)"


@contextmanager
def flushed_before_leaving() -> Iterator[None]:
    """Let a worker process end as soon as the body, which flushes what is finished, was left because of SIGTERM."""
    token = _at_work.set(True)
    try:
        yield
    except StoppedError as stopped:
        stopped.leave()
        raise
    finally:
        _at_work.reset(token)


def stop_on_sigterm() -> None:
    """From now on SIGTERM raises `StoppedError` in the main thread, so that every `with` block is left in order."""
    signal.signal(signal.SIGTERM, _raise_stopped)
    sys.unraisablehook = _raise_again


def obey_parent() -> None:
    """Let a worker process end in order on SIGTERM, and when the run that it works for ends in any way.

    Control-C in a terminal reaches all of its processes; it is for the run, which then stops its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave_soon)
    sys.unraisablehook = _raise_again
    threading.Thread(target=_end_with_parent, name="cmrm-parent", daemon=True).start()


def _raise_stopped(_signal: int, _frame: FrameType | None) -> None:
    raise StoppedError(leave=_stay)


def _leave_soon(_signal: int, _frame: FrameType | None) -> None:
    # A pool keeps its process whatever a job raises, so the process is ended from here.
    if not _at_work.get():
        _leave()
    late = threading.Timer(GRACE, _leave)
    late.daemon = True
    late.start()
    raise StoppedError(leave=_leave)


def _raise_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Where Python could not raise, as while it frees an object, the signal would be lost: send it once more."""
    if isinstance(unraisable.exc_value, StoppedError):
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        sys.__unraisablehook__(unraisable)


def _leave() -> None:
    os._exit(TERMINATED)


def _stay() -> None:
    """The run itself has more to leave in order than a job."""


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is None:
        return
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    _leave()

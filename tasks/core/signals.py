"""SIGINT and SIGTERM handling: flush finished rows, then exit, as on a preempted machine; no signal is lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

# Exit status after SIGTERM, by the shells' convention.
TERMINATED = 128 + signal.SIGTERM
# Seconds that a worker process has to flush before it is forced to exit.
GRACE = 6.0
# Seconds between SIGINT or SIGTERM and each of the signals that wake the main thread.
WAKE_SECONDS = (0.05, 0.2, 1.0)

_at_work: ContextVar[bool] = ContextVar("cmrm_at_work", default=False)


class StoppedError(SystemExit):
    """SIGTERM arrived. Not an `Exception`, so that no error handler catches it.

    `leave` is called once the running job has flushed its rows.
    """

    def __init__(self, leave: Callable[[], None]) -> None:
        super().__init__(TERMINATED)
        self.leave = leave

    def __str__(self) -> str:
        return "it was told to stop (SIGTERM)"


@contextmanager
def flushed_before_leaving() -> Iterator[None]:
    """Exit a worker process after SIGTERM, once the body has flushed its finished rows."""
    token = _at_work.set(True)
    try:
        yield
    except StoppedError as stopped:
        stopped.leave()
        raise
    finally:
        _at_work.reset(token)


def stop_on_sigterm() -> None:
    """Make SIGTERM raise `StoppedError` in the main thread, so that every `with` block exits normally."""
    signal.signal(signal.SIGTERM, _raise_stopped)
    sys.unraisablehook = _raise_again


def obey_parent() -> None:
    """Shut a worker process down on SIGTERM, and when its parent, the run, exits for any reason.

    Ctrl-C in a terminal reaches every process; workers ignore it, since the run stops them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave_soon)
    sys.unraisablehook = _raise_again
    threading.Thread(target=_end_with_parent, name="cmrm-parent", daemon=True).start()


@contextmanager
def waking_main_thread() -> Iterator[None]:
    """Wake the main thread after SIGINT and SIGTERM while the body runs; enter it in the main thread.

    Python runs a handler between two instructions of the main thread. A signal that comes after the last check and
    before a wait for a lock begins, or that the kernel gives to another thread, interrupts no wait: the handler would
    run when the wait ends by itself, which may be never. So a second, harmless signal (SIGURG) follows.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)
    earlier = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    handler = signal.signal(signal.SIGURG, _do_nothing)
    main = threading.get_ident()
    threading.Thread(target=_wake, args=(read, main), name="cmrm-wake", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(earlier)
        signal.signal(signal.SIGURG, signal.SIG_DFL if handler is None else handler)
        os.close(write)  # ends the thread


@contextmanager
def deferring_signals() -> Iterator[None]:
    """Defer SIGINT and SIGTERM that arrive while the body runs until after it; in the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    handlers = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            # None is a handler that was not set by Python and cannot be restored.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for late in dict.fromkeys(came):
            os.kill(os.getpid(), late)


def _raise_stopped(_signal: int, _frame: FrameType | None) -> None:
    raise StoppedError(leave=_stay)


def _leave_soon(_signal: int, _frame: FrameType | None) -> None:
    # A pool keeps its process whatever a job raises, so the process exits from here.
    if not _at_work.get():
        _leave()
    late = threading.Timer(GRACE, _leave)
    late.daemon = True
    late.start()
    raise StoppedError(leave=_leave)


def _wake(read: int, main: int) -> None:
    with os.fdopen(read, "rb", buffering=0) as numbers:
        while came := numbers.read(64):
            if {signal.SIGINT, signal.SIGTERM}.isdisjoint(came):
                continue
            for seconds in WAKE_SECONDS:
                time.sleep(seconds)
                signal.pthread_kill(main, signal.SIGURG)


def _do_nothing(_signal: int, _frame: FrameType | None) -> None:
    """Handle a signal that is sent to interrupt a wait."""


def _raise_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Resend a signal whose exception Python could not raise, as in a finalizer; it would be lost."""
    error = unraisable.exc_value
    if isinstance(error, KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    elif isinstance(error, StoppedError) or _is_prefects(error):
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        sys.__unraisablehook__(unraisable)


def _is_prefects(error: BaseException | None) -> bool:
    """Whether Prefect's handler, which is in force during a flow, has raised it; never imports Prefect."""
    exceptions = sys.modules.get("prefect.exceptions")
    return exceptions is not None and isinstance(error, exceptions.TerminationSignal)


def _leave() -> None:
    os._exit(TERMINATED)


def _stay() -> None:
    """Do nothing: the run itself has more to clean up than a job."""


def _end_with_parent() -> None:
    # Imported late, since few processes have such a parent.
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is None:
        return
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    _leave()

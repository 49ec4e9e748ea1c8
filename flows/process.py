"""Startup and exit of a command's process: rare garbage collection during imports, `os._exit` without module teardown.

Importing torch and Prefect makes about a million permanent objects, which the cyclic garbage collector traverses again
and again; and module teardown at interpreter exit takes a second or two.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module

# Exit statuses by the shells' convention: after SIGINT, and after SIGINT or SIGTERM.
INTERRUPTED = 128 + signal.SIGINT
STOPPED = {INTERRUPTED, 128 + signal.SIGTERM}
# Seconds that an interrupted or terminated process waits at exit for its threads and exit handlers.
LAST_SECONDS = 0.75
# Garbage collection thresholds: Python's defaults, and a first threshold high enough for a command's imports.
USUALLY = gc.get_threshold()
RARELY = 100 * USUALLY[0]


class _Ending:
    """Ends the process with its exit status, by `os._exit` once all other exit handlers have run."""

    def __init__(self) -> None:
        self.status = 0

    def leave(self) -> None:
        logging.shutdown()
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            return  # Python's normal exit reports the broken pipe or full disk, with a status of its own
        os._exit(self.status)

    def leave_soon(self) -> None:
        """Exit after at most `LAST_SECONDS`: Python joins the threads of every executor at exit.

        Finished rows are flushed by then; further signals are ignored.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        late = threading.Timer(LAST_SECONDS, self._leave_at_once)
        late.daemon = True
        late.start()

    def _leave_at_once(self) -> None:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(self.status)


@contextmanager
def ended_at_once() -> Iterator[None]:
    """Exit the process as soon as the body ends, with its status, without waiting for threads or module teardown.

    Enter it before importing anything that registers exit handlers: they run last in, first out.
    """
    ending = _Ending()
    atexit.register(ending.leave)
    try:
        yield
    except SystemExit as end:
        ending.status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if ending.status in STOPPED:
            ending.leave_soon()
        raise
    except KeyboardInterrupt:
        ending.status = INTERRUPTED
        ending.leave_soon()
        raise
    except BaseException:
        ending.status = 1
        raise


def collect_rarely() -> None:
    """Raise the garbage collection threshold for imports, whose objects are permanent."""
    gc.set_threshold(RARELY)


def collect_as_usual() -> None:
    """Restore the garbage collection threshold for work, whose garbage may hold device memory."""
    if gc.get_threshold()[0] == RARELY:
        # Exclude what was imported from every later collection.
        gc.freeze()
        gc.set_threshold(*USUALLY)


def import_for_good(*modules: str) -> bool:
    """Import modules with rare garbage collections, and exclude what there is then from every later one.

    That lasts until `gc.unfreeze`. Returns False, and only imports, where something is excluded already: whoever began
    that ends it.
    """
    first, *others = gc.get_threshold()
    # Zero means that there are no collections at all.
    gc.set_threshold(first and max(first, RARELY), *others)
    try:
        for module in modules:
            import_module(module)
    finally:
        gc.set_threshold(first, *others)
    if gc.get_freeze_count():
        return False
    gc.freeze()
    return True

"""A command's process: imports without garbage collection, and an end without taking apart what was imported.

Importing torch and Prefect makes some million objects, which Python's cyclic collector goes through again and again,
though all of them stay; and at its end an interpreter takes each module apart, which takes a second or two.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = 130
# How many new objects Python waits for before it collects the youngest, and how many such collections it does before
# one of older objects; a command's imports make some hundred thousand.
USUALLY = gc.get_threshold()
RARELY = 100 * USUALLY[0]


class _Ending:
    """How a process ends: with its status, at once when everything else that was to be done at exit is done."""

    def __init__(self) -> None:
        self.status = 0

    def leave(self) -> None:
        logging.shutdown()
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            return  # Python's own end says what is wrong with a pipe or a file, and has a status for it
        os._exit(self.status)


@contextmanager
def ended_at_once() -> Iterator[None]:
    """Let this process end as soon as the body has, threads and exit handlers included, with the status of its end.

    To be entered before anything that registers exit handlers is imported: handlers run last in, first out.
    """
    ending = _Ending()
    atexit.register(ending.leave)
    try:
        yield
    except SystemExit as end:
        ending.status = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    except KeyboardInterrupt:
        ending.status = INTERRUPTED
        raise
    except BaseException:
        ending.status = 1
        raise


def collect_rarely() -> None:
    """Let Python look for cyclic garbage rarely: for imports, whose objects stay."""
    gc.set_threshold(RARELY)


def collect_as_usual() -> None:
    """End what `collect_rarely` began: for work, whose garbage may hold a device's memory."""
    if gc.get_threshold()[0] == RARELY:
        # What was imported is left out of every collection from now on.
        gc.freeze()
        gc.set_threshold(*USUALLY)

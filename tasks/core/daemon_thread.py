"""A single-thread executor whose daemon thread the interpreter does not join at exit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

Result = TypeVar("Result")


class DaemonThread:
    """Runs submitted calls in order in a daemon thread, which starts with the first of them.

    `concurrent.futures.ThreadPoolExecutor` is joined at the interpreter's exit, however long a call hangs.
    """

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._dropping = threading.Event()

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """Queue a call behind all earlier ones; the future has its result, or what it raised."""
        future: Future[Result] = Future()
        self._queue.put((future, work))
        if self._thread.ident is None:
            self._thread.start()
        return future

    def stop(self) -> None:
        """Cancel queued calls, and end the thread after the running one."""
        self._dropping.set()
        self._queue.put(None)

    def join(self, seconds: float | None = None) -> bool:
        """Wait for a stopped thread to end, at most `seconds`; return whether it has ended."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (one := self._queue.get()) is not None:
            future, work = one
            if self._dropping.is_set():
                future.cancel()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - raised again by `Future.result`
                future.set_exception(error)
            else:
                future.set_result(result)
            # An idle thread must not keep its last call's objects alive.
            del one, future, work

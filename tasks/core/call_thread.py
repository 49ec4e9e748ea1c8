"""Run calls that may hang, such as a judge's, in a separate thread, so that the waiting thread can be stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from tasks.core.daemon_thread import DaemonThread

Item = TypeVar("Item")


class JobStoppedError(BaseException):
    """The run that a job belongs to ends early. Not an `Exception`: no row is at fault and no handler may catch it."""

    def __str__(self) -> str:
        return "the run ends early; what is finished is flushed"


@dataclass(frozen=True, kw_only=True)
class _Item(Generic[Item]):
    value: Item


@dataclass(frozen=True, kw_only=True)
class _End:
    error: BaseException | None = None


class _Stop:
    """Queue sentinel: whatever follows it is ignored."""


_Given = SimpleQueue[_Item[Any] | _End | _Stop]


class CallThread:
    """Runs iterators, one at a time, in a daemon thread that is abandoned if one hangs.

    Items produced after `stop` are dropped, so an iterator must not write to the store: its consumer does.
    """

    def __init__(self, name: str) -> None:
        self._thread = DaemonThread(name)
        self._lock = threading.Lock()
        self._stopped = False
        self._waiting: _Given | None = None

    def iterate(self, make: Callable[[], Iterable[Item]]) -> Generator[Item]:
        """Yield the items of `make()`, which the thread prefetches, and raise what it raises.

        Raises `JobStoppedError` after the items produced before `stop`, whatever the thread is doing. Close the
        generator if you may leave it early: the iterable then ends after its next item.
        """
        given: _Given = SimpleQueue()
        left = threading.Event()
        with self._lock:
            self._waiting = given
            if self._stopped:
                given.put(_Stop())
            else:
                # Copies Prefect's context, and with it a judge's logger.
                context = copy_context()
                self._thread.submit(lambda: context.run(self._run, make, given, left))
        try:
            while isinstance(one := given.get(), _Item):
                yield one.value
            if isinstance(one, _Stop):
                raise JobStoppedError
            if one.error is not None:
                try:
                    raise one.error
                finally:
                    # The traceback references this frame, which must not reference the error: that would be a cycle.
                    del one
        finally:
            left.set()

    def stop(self) -> None:
        """Make the current iteration and every later one raise `JobStoppedError`; may be called twice."""
        with self._lock:
            self._stopped = True
            if self._waiting is not None:
                self._waiting.put(_Stop())
        self._thread.stop()

    def _run(self, make: Callable[[], Iterable[Item]], given: _Given, left: threading.Event) -> None:
        try:
            items = make()
            for value in items:
                given.put(_Item(value=value))
                if left.is_set() or self._stopped:
                    break
            if isinstance(items, Generator):
                items.close()
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer
            given.put(_End(error=error))
        else:
            given.put(_End())


_calls: ContextVar[CallThread | None] = ContextVar("cmrm_calls", default=None)


@contextmanager
def calling_in(thread: CallThread) -> Iterator[None]:
    """Make `iterate_apart` run iterators in this thread while the body runs."""
    token = _calls.set(thread)
    try:
        yield
    finally:
        _calls.reset(token)


@contextmanager
def iterate_apart(make: Callable[[], Iterable[Item]]) -> Iterator[Iterator[Item]]:
    """Iterate over `make()`: in the call thread if there is one, else in this thread, where signals raise."""
    thread = _calls.get()
    if thread is None:
        yield iter(make())
    else:
        with closing(thread.iterate(make)) as items:
            yield items

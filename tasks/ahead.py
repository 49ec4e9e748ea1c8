"""Work that is done in a thread, a little before its result is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def make_thread() -> ThreadPoolExecutor:
    """Make a thread for work that is done ahead; leaving its `with` block waits for what it is at."""
    return ThreadPoolExecutor(1, thread_name_prefix="cmrm-ahead")


def ahead(
    items: Iterable[Item], work: Callable[[Item], Result], thread: Executor, *, depth: int = 1
) -> Generator[Result]:
    """Do the work on each item in a thread, up to `depth` items before it is asked for; results in order.

    What the work raises comes out in the place of its result. Closing the generator drops what is not begun; do so
    (`contextlib.closing`) wherever it may be left before its end. It does not wait for what is: whoever is told to stop
    has finished rows to keep first, and other work comes after that in the same thread.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(thread.submit(work, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()

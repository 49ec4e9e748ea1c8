"""Work that is done in a thread, a little before its result is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(items: Iterable[Item], work: Callable[[Item], Result], *, depth: int = 1) -> Generator[Result]:
    """Do the work on each item in one thread, up to `depth` items before it is asked for; results in order.

    What the work raises comes out in the place of its result. Closing the generator drops what is not begun and waits
    for what is; do so (`contextlib.closing`) wherever it may be left before its end.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="cmrm-ahead") as thread:
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

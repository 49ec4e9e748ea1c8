"""Prefetch: compute results in a thread, a few items before they are consumed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def make_thread() -> ThreadPoolExecutor:
    """Make a prefetch thread; leaving its `with` block waits for the running call."""
    return ThreadPoolExecutor(1, thread_name_prefix="cmrm-prefetch")


def prefetch(
    items: Iterable[Item], work: Callable[[Item], Result], thread: Executor, *, depth: int = 1
) -> Generator[Result]:
    """Call `work` on each item in a thread, up to `depth` items ahead of the consumer; results come in order.

    An exception of `work` is raised in place of its result. Closing the generator cancels queued calls; do so
    (`contextlib.closing`) if you may leave it early. It does not wait for the running call, since a stopped consumer
    has finished rows to flush first; later work is queued behind that call in the same thread.
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

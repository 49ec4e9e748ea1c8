"""Work for a browser that may go away: closing the page, or its Stop, ends what it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import Receive

T = TypeVar("T")


@asynccontextmanager
async def watched(receive: Receive, leave: Callable[[], None]) -> AsyncIterator[None]:
    """Call `leave` if the browser goes away while the body runs; what it sends has been read before."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        leave()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher


async def run_watched(request: Request, work: Callable[[], T], stop: Callable[[], None]) -> T:
    """Run `work` in a thread and return its result; `stop` is called if the browser goes away meanwhile."""
    async with watched(request.receive, stop):
        return await run_in_threadpool(work)

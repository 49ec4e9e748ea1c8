"""Rate limit for requests: evenly spaced, so that no minute exceeds `requests_per_minute`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any


@dataclass(kw_only=True)
class Pace:
    """Rate limiter: one request every `interval` seconds, across threads and event loops.

    Not frozen, since it stores when the next request may start. A token bucket would allow a burst of a whole minute's
    quota, and twice the quota within the first minute.
    """

    interval: float
    _next: float = field(default=0.0, init=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process has its own clock, so its own schedule.
        return partial(Pace, interval=self.interval), ()

    async def wait(self) -> None:
        """Wait until this request may start."""
        with self._lock:
            turn = max(time.monotonic(), self._next)
            self._next = turn + self.interval
        await asyncio.sleep(turn - time.monotonic())

"""A pace for requests: evenly apart, so that no minute holds more than its share."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any


@dataclass(kw_only=True)
class Pace:
    """Lets one request through every `interval` seconds, whatever thread or event loop it comes from.

    Not frozen, since it remembers when the next may go. A bucket of tokens would let a whole minute's share go at
    once, and twice the share within the first minute.
    """

    interval: float
    _next: float = field(default=0.0, init=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process has its own clock and its own turns.
        return partial(Pace, interval=self.interval), ()

    async def wait(self) -> None:
        """Wait for this request's turn."""
        with self._lock:
            turn = max(time.monotonic(), self._next)
            self._next = turn + self.interval
        await asyncio.sleep(turn - time.monotonic())

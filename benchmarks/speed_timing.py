"""Time variants in interleaved rounds, so that a slow minute of the machine affects all of them."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A variant of some work; its seconds are multiplied by `times` if it does only a part of the work.

    `warm_up` is run in its place before the turns, where what is to be checked is more than what is timed.
    """

    name: str
    run: Callable[[], Any]
    times: float = 1.0
    warm_up: Callable[[], Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of each turn, in their order, and what the untimed first turn gave."""

    seconds: Sequence[float]
    result: Any = field(repr=False)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Half the distance from the fastest to the slowest turn, over the median."""
        return (max(self.seconds) - min(self.seconds)) / 2 / self.median


def take_turns(
    variants: Sequence[Variant], *, turns: int, device: torch.device, until: float
) -> Mapping[str, Timing]:
    """Run every variant once untimed, then all of them `turns` times, another one first each time.

    No turn but the first begins after `until`, a reading of the monotonic clock.
    """
    results = {variant.name: (variant.warm_up or variant.run)() for variant in variants}
    seconds: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for turn in range(turns):
        if turn and time.monotonic() > until:
            tell(f"the time is up after {turn} of {turns} turns")
            break
        first = turn % len(variants)
        for variant in (*variants[first:], *variants[:first]):
            seconds[variant.name].append(time_once(variant.run, device) * variant.times)
    return {name: Timing(seconds=seconds[name], result=result) for name, result in results.items()}


def time_once(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, until the device is done."""
    finish(device)
    since = time.perf_counter()
    run()
    finish(device)
    return time.perf_counter() - since


def choose_size(
    run: Callable[[int], Any], sizes: Iterable[int], *, what: str, device: torch.device
) -> tuple[int, Callable[[], Any]]:
    """The size under which the same work takes least time, each tried once, and what gives that try's result."""
    seconds: dict[int, float] = {}
    results: dict[int, Any] = {}

    def keep(size: int) -> None:
        results[size] = run(size)

    for size in sizes:
        if not _fits(lambda size=size: seconds.update({size: time_once(partial(keep, size), device)})):
            break
    if not seconds:
        raise torch.OutOfMemoryError(f"{what}: no batch size fits into memory")
    best = min(seconds, key=lambda size: seconds[size])
    tell(f"{what}: best size {best} of " + ", ".join(f"{size}: {one:.2f} s" for size, one in seconds.items()))
    return best, partial(results.get, best)


def _fits(run: Callable[[], Any]) -> bool:
    """Whether memory suffices for a call; what it held is freed."""
    try:
        run()
    except torch.OutOfMemoryError:
        pass
    else:
        return True
    # Outside of the handler: its traceback holds the tensors of the call.
    torch.cuda.empty_cache()
    return False


def finish(device: torch.device) -> None:
    """Synchronize the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def tell(text: str) -> None:
    """Print a progress line to stderr; stdout has the tables only."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)

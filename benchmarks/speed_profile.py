"""Profile a figure: the operators that take most of its time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from speed_table import table
from speed_timing import finish
from torch.profiler import ProfilerActivity

MOST = 12


def profile(run: Callable[[], Any], device: torch.device) -> str:
    """A table of the operators that take most time of one call, by their own time on the device."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=activities) as seen:
        run()
        finish(device)
    found = [
        (event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count, event.key)
        for event in seen.key_averages()
    ]
    total = sum(spent for spent, _, _ in found) or 1
    cells = [["operator", "calls", "ms", "share"]]
    cells += [
        [key[:56], f"{count:,}", f"{spent / 1000:.1f}", f"{spent / total:.0%}"]
        for spent, count, key in sorted(found, reverse=True)[:MOST]
    ]
    return table(cells, right=(1, 2, 3))

"""Which process does something in a store, and whether it is still there: by machine, number and time of its start."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def describe_process() -> dict[str, Any]:
    """Describe this process as a record keeps it: host, pid, and what tells it from a later one of that number."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _read_start(os.getpid())}


def has_ended(process: Mapping[str, Any]) -> bool:
    """Return whether a process that was described is known to be gone; of another machine's nothing is known."""
    pid = process.get("pid")
    if process.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    if is_gone(pid):
        return True
    started = process.get("started")
    now = _read_start(pid)
    # Numbers are given again, in a container after each of its starts.
    return started is not None and now is not None and started != now


def is_gone(pid: int) -> bool:
    """Return whether no process of this machine has the number."""
    if os.name != "posix" or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False  # another user's
    return False


def _read_start(pid: int) -> str | None:
    """When a process started: the machine's boot, and ticks since then; None where Linux does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The name, in brackets, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return f"{boot} {fields[19]}"
    except (OSError, IndexError):
        return None

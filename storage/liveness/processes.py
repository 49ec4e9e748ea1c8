"""Check whether a recorded process is still alive, by host, process id and start time."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def describe_process() -> dict[str, Any]:
    """Describe this process for a record: host, pid, and start time, since pids are reused."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _read_start(os.getpid())}


def is_of_this_boot(process: Mapping[str, Any]) -> bool:
    """Return whether a described process was started on this host since it booted.

    Hosts may share a name ("localhost"), or have rebooted: then a process id is meaningless.
    """
    boot = str(process.get("started")).partition(" ")[0]
    return process.get("host") == socket.gethostname() and boot in {"None", _read_boot()}


def has_ended(process: Mapping[str, Any]) -> bool:
    """Return whether a described process is known to have ended; on another machine that is never known."""
    pid = process.get("pid")
    if process.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    if is_gone(pid):
        return True
    started = process.get("started")
    now = _read_start(pid)
    # Process ids are reused, in a container after each start.
    return started is not None and now is not None and started != now


def is_gone(pid: int) -> bool:
    """Return whether no process of this machine has the pid."""
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
    """When a process started: the boot id, and ticks since boot; None where /proc does not tell."""
    boot = _read_boot()
    try:
        # The process name, in brackets, may contain anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if boot is None else f"{boot} {fields[19]}"
    except (OSError, IndexError):
        return None


def _read_boot() -> str | None:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None

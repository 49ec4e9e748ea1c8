"""The machine: its cards, versions and memory, and how long the device takes."""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import speed
import torch

from cmrm.models.oom import release_memory

GIB = 1 << 30
# Of the packages that some checks use where they are installed.
OPTIONAL = ("accelerate", "flash_attn", "triton", "nnsight")


def describe_machine(device: torch.device) -> dict[str, str]:
    """Describe the machine, each of its cards, and the versions of all that takes part."""
    found = {
        "machine": f"{platform.machine()}, {platform.system()} {platform.release()}",
        "processor": f"{speed.name_processor()}, {torch.get_num_threads()} threads of torch",
        **_describe_cards(),
        "python": platform.python_version(),
    }
    found |= {
        name: value
        for name, value in speed.describe_machine(device).items()
        if name in {"torch", "transformers", "date", "commit"}
    }
    found |= {name: _find_version(name) for name in OPTIONAL}
    if torch.cuda.is_available():
        found["CUDA of torch"] = str(torch.version.cuda)
        found["cuDNN"] = str(torch.backends.cudnn.version())
    return found


def _describe_cards() -> dict[str, str]:
    if not torch.cuda.is_available():
        return {"card": "none that torch can use"}
    cards = {}
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        cards[f"card {number}"] = (
            f"{card.name}, compute capability {card.major}.{card.minor}, {card.multi_processor_count} "
            f"multiprocessors, {write_bytes(total)}, of which {write_bytes(free)} are free"
        )
    return cards


def _find_version(package: str) -> str:
    if find_spec(package) is None:
        return "not installed"
    try:
        return version(package)
    except PackageNotFoundError:
        return "of no known version"


def finish(device: torch.device) -> None:
    """Wait until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free(device: torch.device) -> None:
    """Return to the GPU what torch keeps of it for later; a CPU's allocator does so itself."""
    if device.type == "cuda":
        # A GPU that an earlier error has made unusable says so in the next check.
        with suppress(RuntimeError):
            release_memory()


def reset_peak(device: torch.device) -> None:
    """Begin to note anew the most memory that torch holds on the device."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def read_peak(device: torch.device) -> int | None:
    """The most bytes of tensors on the GPU since `reset_peak`; of a CPU, of the process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # In kB on Linux, in bytes on macOS.
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def read_allocated(device: torch.device) -> int | None:
    """Bytes of tensors on the GPU now; None on a CPU, which counts none."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else None


def time_calls(run: Callable[[], Any], device: torch.device, *, turns: int) -> tuple[Any, float]:
    """The result of a call that warms up, and the least seconds of as many more."""
    result = run()
    seconds = []
    for _ in range(turns):
        finish(device)
        started = time.perf_counter()
        run()
        finish(device)
        seconds.append(time.perf_counter() - started)
    return result, min(seconds)


def write_bytes(count: int) -> str:
    """Bytes for a person to read."""
    return f"{count / GIB:.2f} GiB" if count >= GIB // 10 else f"{count / (1 << 20):.1f} MiB"

"""Memory for a model's weights: what they need, what a device has free, and a refusal before anything is loaded."""

from __future__ import annotations

import ctypes
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from cmrm.errors import UserError
from cmrm.models.weight_files import INDEX_ENDING, find_weights, list_shards

log = logging.getLogger("cmrm.models")

# Assumed where the machine does not report its free memory.
UNKNOWN_BYTES = 4 << 30
# Where a container finds its memory limits.
CGROUP = Path("/sys/fs/cgroup")
# Floating-point weights take the dtype asked for; those of other types stay as they were saved.
FLOATING = re.compile(r"B?F\d+")
# So do the 8 and 4 bits of files that are quantized already, unless the CPU, which cannot multiply them, dequantizes.
WIDE = re.compile(r"B?F(16|32|64)$")
GIB = 1 << 30
FIX = (
    "Give a smaller dtype (bfloat16, float16) or another device, or free some memory; a model of a spec also takes "
    "quantization and device_map."
)


def need_memory(
    folder: Path,
    *,
    dtype: torch.dtype | None,
    device: torch.device,
    spread: bool,
    saved: int,
    where: str,
    cast: re.Pattern[str] = FLOATING,
) -> None:
    """Raise `UserError` if a checkpoint's weights need more memory than is free, saying how much of each.

    `dtype` is that of the weights whose type in the files `cast` matches, None for as they were saved; `saved` are the
    bytes that quantization takes off; `spread` says that accelerate may use all devices and the host's memory
    (`device_map`). `where` is how errors name the checkpoint. What activations and the KV cache take comes on top, and
    batches are cut to it.
    """
    need = count_weight_bytes(folder, dtype=dtype, where=where, cast=cast) - saved
    free, place = _measure_room(device, spread=spread)
    if need > free and (spread or device.type == "cpu"):
        _release_freed()
        free, place = _measure_room(device, spread=spread)
    if need > free:
        raise UserError(
            f"{where} needs {_write(need)} for its weights, and {place} has {_write(free)} free. {FIX}"
        )
    log.info("%s: its weights take %s; %s has %s free", where, _write(need), place, _write(free))


def choose_cast(config: Any, device: torch.device) -> re.Pattern[str]:
    """Choose which types of weights in a checkpoint's files take the dtype asked for, by its config."""
    quantized = getattr(config, "quantization_config", None) is not None
    return WIDE if quantized and device.type != "cpu" else FLOATING


def count_weight_bytes(
    folder: Path, *, dtype: torch.dtype | None, where: str, cast: re.Pattern[str] = FLOATING
) -> int:
    """Count the bytes of a checkpoint's weights in memory, by the headers of its files.

    Weights whose type there `cast` matches take `dtype`, unless that is None. Raises as `find_weights` does.
    """
    asked = None if dtype is None else 8 * dtype.itemsize
    total = 0
    for path in _list_files(folder, where=where):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 # it is no mapping
                tensor = file.get_slice(name)
                kept = tensor.get_dtype()
                bits = asked if asked is not None and cast.match(kept) else _count_bits(kept)
                count = 1
                for length in tensor.get_shape():
                    count *= length
                total += count * bits // 8
    return total


def measure_free_bytes(device: torch.device) -> int:
    """Free memory of a device in bytes."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # Memory that torch has reserved and not allocated is free for tensors.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    known = [free for free in (_read_available(), _read_container()) if free is not None]
    return min(known, default=UNKNOWN_BYTES)


def _measure_room(device: torch.device, *, spread: bool) -> tuple[int, str]:
    """Measure the free memory that weights may go to, in bytes, and say where it is."""
    if not spread or not torch.cuda.is_available():
        return measure_free_bytes(device), str(device)
    gpus = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    free = sum(measure_free_bytes(one) for one in (*gpus, torch.device("cpu")))
    return free, f"this machine ({len(gpus)} GPUs and RAM together)"


def _list_files(folder: Path, *, where: str) -> Iterator[Path]:
    found = find_weights(folder, where=where)
    if not found.name.endswith(INDEX_ENDING):
        yield found
        return
    yield from (folder / name for name in list_shards(found))


def _count_bits(kept: str) -> int:
    """Count the bits of a number by the name of its type in a safetensors header, such as BF16 or F8_E4M3."""
    digits = re.search(r"\d+", kept)
    return 8 if digits is None else int(digits.group())


def _release_freed() -> None:
    """Return to the system what this process has freed and kept; does nothing without glibc."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return


def _read_available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return None


def _read_container() -> int | None:
    """Free memory under the cgroup limit, cached files included, which make room; None without a limit."""
    try:
        most, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        counted = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        cached = sum(int(counted.get(name, 0)) for name in ("active_file", "inactive_file"))
    except (OSError, ValueError):
        return None
    return max(0, int(most) - int(used) + cached) if most.isdecimal() else None


def _write(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB // 10 else f"{count / (1 << 20):.1f} MiB"

"""Where a model's weights lie: on one device, or spread over all of this machine's by accelerate."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

from cmrm.errors import UserError
from cmrm.extras import need_package

DeviceMap = Literal["auto", "balanced", "balanced_low_0", "sequential"]

# Names of mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def choose_device(device: str, *, field: str = "model.device") -> torch.device:
    """The device that a word means; `UserError` naming the field of the spec where there is none."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # Torch says in many ways that there is no such device; an empty tensor asks for it.
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{field}: there is no {device!r} here ({reason}); use auto, cpu or cuda.") from None


def need_accelerate() -> None:
    """Raise `UserError` where the package is missing that spreads a model over devices."""
    need_package("accelerate", extra="multi-gpu", field="model.device_map")


def refuse_disk(model: Any, *, where: str) -> None:
    """Raise `UserError` if part of a model found no room in memory.

    Such weights would be read at each token, from files that may be others by then.
    """
    if "disk" in map(str, getattr(model, "hf_device_map", {}).values()):
        raise UserError(
            f"model.device_map: {where!r} does not fit into the memory of this machine's devices and its own, so part "
            "of it would stay on disk. Use a smaller dtype, model.quantization, or a machine with more memory."
        )


def own_weights(model: nn.Module) -> None:
    """Copy weights on the CPU into memory of their own: as they are loaded they are the file, and change with it.

    Those that accelerate keeps here for another device are among them.
    """
    for tensor in {id(one): one for one in (*model.parameters(), *model.buffers())}.values():
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()
    for kept in {id(one): one for one in _list_kept(model)}.values():
        for name, tensor in kept.items():
            kept[name] = tensor.clone()


def _list_kept(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """What accelerate's hooks bring to a device when it is needed."""
    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        for one in getattr(hook, "hooks", [hook]):
            kept = getattr(one, "weights_map", None)
            # Views of one mapping, one for each module, each with a prefix of its own.
            kept = getattr(kept, "dataset", kept)
            kept = getattr(kept, "state_dict", kept)
            if isinstance(kept, dict):
                yield kept


def keep_freed_memory() -> None:
    """Tell glibc to keep freed buffers for the next operation instead of handing each back to the system.

    Large activations are otherwise paid for in page faults at every operation (docs/decisions.md has the figure).
    Where there is no glibc, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for parameter, value in ((M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, (1 << 31) - 1)):
        mallopt(parameter, value)

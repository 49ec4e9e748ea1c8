"""Device placement of a model's weights: on one device, or spread over several by accelerate (`device_map`)."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import nn

from cmrm.errors import UserError
from cmrm.models.optional_packages import need_package

DeviceMap = Literal["auto", "balanced", "balanced_low_0", "sequential"]

# Names of mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def choose_device(device: str, *, field: str = "model.device") -> torch.device:
    """Resolve a device name (`auto`, `cpu`, `cuda`, …); `UserError` naming the spec's field if it is unavailable."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # An empty tensor is the one probe that works for every kind of device.
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{field}: there is no {device!r} here ({reason}); use auto, cpu or cuda.") from None


def need_accelerate() -> None:
    """Raise `UserError` if accelerate is missing, which spreads a model over devices."""
    need_package("accelerate", extra="multi-gpu", field="model.device_map")


def refuse_disk(model: Any, *, where: str) -> None:
    """Raise `UserError` if accelerate offloads part of a model to disk for want of memory.

    Such weights would be read at each token, from files that may have changed by then.
    """
    if "disk" in map(str, getattr(model, "hf_device_map", {}).values()):
        raise UserError(
            f"model.device_map: {where!r} needs more memory than this machine's devices and RAM have free, so part of "
            "it would be offloaded to disk. Use a smaller dtype, model.quantization, or a machine with more memory."
        )


def own_weights(model: nn.Module) -> None:
    """Copy weights on the CPU out of the memory-mapped file, which would change them if it were written.

    This includes weights that accelerate offloads to the CPU.
    """
    for tensor in {id(one): one for one in (*model.parameters(), *model.buffers())}.values():
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()
    for kept in {id(one): one for one in _list_kept(model)}.values():
        for name, tensor in kept.items():
            kept[name] = tensor.clone()


def _list_kept(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """List the weight maps from which accelerate's hooks load offloaded weights."""
    for one in list_placement_hooks(model):
        kept = getattr(one, "weights_map", None)
        # Each module has a view of one mapping, with a prefix of its own.
        kept = getattr(kept, "dataset", kept)
        kept = getattr(kept, "state_dict", kept)
        if isinstance(kept, dict):
            yield kept


def list_placement_hooks(model: nn.Module) -> Iterator[Any]:
    """List the hooks by which accelerate moves inputs and weights of a model's parts between devices."""
    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        yield from () if hook is None else getattr(hook, "hooks", (hook,))


def keep_freed_memory() -> None:
    """Tell glibc to keep freed buffers for the next operation instead of returning them to the system.

    Large activations otherwise cause page faults at every operation (docs/decisions/models.md has the figure).
    Does nothing without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for parameter, value in ((M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, (1 << 31) - 1)):
        mallopt(parameter, value)

"""Tensors on their way from the device to the host's memory, while the device goes on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Arriving:
    """A tensor that is being copied; `event` says when it is there, None where it is already."""

    host: Tensor
    event: torch.cuda.Event | None

    @property
    def is_there(self) -> bool:
        """Whether there is nothing to wait for."""
        return self.event is None or bool(self.event.query())

    def wait(self) -> Tensor:
        """The tensor in the host's memory."""
        if self.event is not None:
            self.event.synchronize()
        return self.host


def send_to_host(tensor: Tensor) -> Arriving:
    """Begin to copy a tensor; whatever the device is given afterwards, the copy is of the tensor as it is now."""
    if tensor.device.type != "cuda":
        return Arriving(host=tensor.cpu(), event=None)
    # A copy into memory that may be paged out would hold up the host until it is done.
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(tensor.device))
    return Arriving(host=host, event=event)

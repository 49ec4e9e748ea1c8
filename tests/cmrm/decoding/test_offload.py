"""An asynchronous copy to the host holds the tensor as it was when the copy started."""

from __future__ import annotations

import pytest
import torch

from cmrm.decoding.scheduler import send_to_host


def test_the_copy_of_a_host_tensor_is_complete_at_once() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    arriving = send_to_host(tensor)
    assert arriving.is_there
    assert torch.equal(arriving.wait(), tensor)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="copies from a GPU")
def test_what_the_device_does_to_a_tensor_afterwards_does_not_reach_the_copy() -> None:
    tensor = torch.full((1 << 22,), 1.0, device="cuda")
    arriving = send_to_host(tensor)
    for _ in range(100):
        tensor.add_(1.0)
    host = arriving.wait()
    assert arriving.is_there
    assert host.device.type == "cpu"
    assert bool((host == 1.0).all())

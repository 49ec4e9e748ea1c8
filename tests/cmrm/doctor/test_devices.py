"""`cmrm doctor` passes a model split over two devices."""

from __future__ import annotations

import pytest

from cmrm.doctor import run_checks
from cmrm.models.vlm import VisionLanguageModel
from tests.two_devices import DEVICES, MixedDevicesError, TwoDevices, spread


@pytest.mark.parametrize("first", [0, 2], ids=["all blocks away from the prompts", "some blocks"])
def test_a_model_split_over_two_devices_passes_every_check(vlm: VisionLanguageModel, first: int) -> None:
    spread(vlm, first=first)
    with TwoDevices():
        findings = run_checks(vlm, image_size=32)
    assert {one.name: one.detail for one in findings if not one.passed} == {}


def test_tensors_of_two_devices_do_not_mix(vlm: VisionLanguageModel) -> None:
    spread(vlm, first=2)
    with TwoDevices():
        here, there = (block.mlp.down_proj.weight for block in (vlm.blocks[1], vlm.blocks[2]))  # type: ignore[union-attr]
        assert (here.device, there.device) == DEVICES
        with pytest.raises(MixedDevicesError):
            here + there
        assert (here.to(there.device) + there).device == DEVICES[1]

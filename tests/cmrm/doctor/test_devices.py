"""`cmrm doctor` passes a model split over two devices."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cmrm.doctor import run_checks
from cmrm.models.vlm import VisionLanguageModel
from tests.two_devices import DEVICES, MixedDevicesError, TwoDevices, spread


@pytest.mark.parametrize(
    ("first", "offloaded"),
    [(0, ()), (2, (3,))],
    ids=["all blocks away from the prompts", "some blocks, one of them kept on the host"],
)
def test_a_model_that_accelerate_splits_over_two_devices_passes_every_check(
    vlm: VisionLanguageModel, first: int, offloaded: Sequence[int]
) -> None:
    with TwoDevices():
        spread(vlm, first=first, offloaded=offloaded)
        assert all(one.is_meta for number in offloaded for one in vlm.blocks[number].parameters())
        findings = run_checks(vlm, image_size=32)
    assert {one.name: one.detail for one in findings if not one.passed} == {}


def test_tensors_of_two_devices_do_not_mix(vlm: VisionLanguageModel) -> None:
    with TwoDevices():
        spread(vlm, first=2)
        here, there = (block.mlp.down_proj.weight for block in (vlm.blocks[1], vlm.blocks[2]))  # type: ignore[union-attr]
        assert (here.device, there.device) == DEVICES
        with pytest.raises(MixedDevicesError):
            here + there
        assert (here.to(there.device) + there).device == DEVICES[1]

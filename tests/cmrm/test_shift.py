"""The shift Δ: its mean, its file and its direction."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from cmrm.errors import UserError
from cmrm.shift import DIRECTION, Shift, ShiftMean, load_shift, serialize_shift


def random_pairs(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 2, 5, generator=generator), torch.randn(count, 2, 5, generator=generator)


@given(cuts=st.lists(st.integers(0, 12), max_size=4))
def test_the_mean_does_not_depend_on_how_anchors_are_batched(cuts: list[int]) -> None:
    with_image, text_only = random_pairs(12)
    mean = ShiftMean(blocks=(0, 3), hidden_size=5)
    edges = [0, *sorted(cuts), 12]
    for start, stop in itertools.pairwise(edges):
        mean.add(with_image[start:stop], text_only[start:stop])
    shift = mean.finish()
    assert shift.count == 12
    torch.testing.assert_close(shift.delta, (with_image - text_only).mean(dim=0))


def test_the_shift_points_from_text_to_image() -> None:
    mean = ShiftMean(blocks=(1,), hidden_size=2)
    mean.add(with_image=torch.tensor([[[3.0, 1.0]]]), text_only=torch.tensor([[[1.0, 1.0]]]))
    assert mean.finish().delta.tolist() == [[2.0, 0.0]]


def test_a_state_that_is_not_finite_is_refused() -> None:
    mean = ShiftMean(blocks=(1,), hidden_size=2)
    with pytest.raises(ValueError, match="not finite"):
        mean.add(torch.tensor([[[float("inf"), 0.0]]]), torch.zeros(1, 1, 2))


def test_no_anchor_is_an_error_that_names_the_field() -> None:
    with pytest.raises(UserError, match="anchors"):
        ShiftMean(blocks=(1,), hidden_size=2).finish()


def test_a_saved_shift_comes_back_whole(tmp_path: Path) -> None:
    shift = Shift(
        delta=torch.randn(2, 4), blocks=(1, 5), count=7, made_from={"model": "m@1", "image": "blank"}
    )
    path = tmp_path / "shift.safetensors"
    path.write_bytes(serialize_shift(shift))
    again = load_shift(path)
    assert torch.equal(again.delta, shift.delta)
    assert (again.blocks, again.count) == ((1, 5), 7)
    assert again.made_from["model"] == "m@1"
    assert torch.equal(again.choose([5]), shift.delta[1:])
    with pytest.raises(UserError, match="block 2"):
        again.choose([2])


@pytest.mark.parametrize("direction", [None, "text_minus_image"])
def test_a_file_without_the_right_direction_is_refused(tmp_path: Path, direction: str | None) -> None:
    path = tmp_path / "shift.safetensors"
    tensors = {"delta": torch.zeros(1, 2), "blocks": torch.tensor([0])}
    save_file(tensors, path, metadata={"count": "1", **({"direction": direction} if direction else {})})
    with pytest.raises(UserError, match=DIRECTION):
        load_shift(path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shift.safetensors"
    path.write_bytes(b"\x10\x00")
    with pytest.raises(UserError, match="cannot be read"):
        load_shift(path)

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
from cmrm.steering.shift import (
    DIRECTION,
    PrincipalShift,
    Shift,
    ShiftMean,
    join_blocks,
    load_shift,
    make_estimator,
    serialize_shift,
)


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


def test_a_saved_shift_is_loaded_unchanged(tmp_path: Path) -> None:
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


def test_the_principal_shift_is_the_leading_direction_of_the_differences_as_long_as_their_mean_along_it() -> (
    None
):
    generator = torch.Generator().manual_seed(1)
    text_only = torch.randn(40, 2, 6, generator=generator)
    with_image = text_only + 3 * torch.eye(6)[[1, 4]] + 0.1 * torch.randn(40, 2, 6, generator=generator)
    principal = PrincipalShift(blocks=(2, 3), hidden_size=6)
    for start in (0, 7):
        part = slice(start, 7 if start == 0 else None)
        principal.add(with_image[part], text_only[part])
    shift = principal.finish(image="blank")
    assert (shift.blocks, shift.count, shift.made_from["image"]) == ((2, 3), 40, "blank")
    for row, difference in enumerate((with_image - text_only).double().unbind(dim=1)):
        leading = torch.linalg.svd(difference, full_matrices=False).Vh[0]
        expected = (difference.mean(dim=0) @ leading) * leading
        torch.testing.assert_close(shift.delta[row], expected.float())
        # From text to image, as the mean points, whatever sign the decomposition gave the direction.
        assert shift.delta[row] @ difference.mean(dim=0).float() > 0


def test_each_method_has_its_own_estimator() -> None:
    assert type(make_estimator("mean", blocks=(0,), hidden_size=3)) is ShiftMean
    assert type(make_estimator("pca", blocks=(0,), hidden_size=3)) is PrincipalShift


def test_blocks_measured_one_by_one_join_into_the_shift_of_all() -> None:
    with_image, text_only = random_pairs(5)
    both = ShiftMean(blocks=(0, 3), hidden_size=5)
    both.add(with_image, text_only)
    parts = []
    for index, block in enumerate((0, 3)):
        part = ShiftMean(blocks=(block,), hidden_size=5)
        part.add(with_image[:, [index]], text_only[:, [index]])
        parts.append(part.finish())
    joined = join_blocks(parts)
    assert (joined.blocks, joined.count) == ((0, 3), 5)
    assert torch.equal(joined.delta, both.finish().delta)


@pytest.mark.parametrize("direction", [None, "text_minus_image"])
def test_a_file_without_the_right_direction_is_refused(tmp_path: Path, direction: str | None) -> None:
    path = tmp_path / "shift.safetensors"
    tensors = {"delta": torch.zeros(1, 2), "blocks": torch.tensor([0])}
    save_file(
        tensors,
        path,
        metadata={"schema_version": "1", "count": "1", **({"direction": direction} if direction else {})},
    )
    with pytest.raises(UserError, match=DIRECTION):
        load_shift(path)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shift.safetensors"
    path.write_bytes(b"\x10\x00")
    with pytest.raises(UserError, match="cannot be read"):
        load_shift(path)


def test_the_same_shift_gives_the_same_bytes():
    shift = Shift(
        delta=torch.eye(3, 4),
        blocks=(0, 1, 2),
        count=5,
        made_from={name: name for name in ("model", "image", "method", "anchors", "fingerprint")},
    )
    assert len({serialize_shift(shift) for _ in range(20)}) == 1


@pytest.mark.parametrize("version", [None, "0", "2"])
def test_a_file_of_another_schema_version_is_refused(tmp_path: Path, version: str | None) -> None:
    path = tmp_path / "shift.safetensors"
    metadata = {"count": "1", "direction": DIRECTION} | ({"schema_version": version} if version else {})
    save_file({"delta": torch.zeros(1, 4), "blocks": torch.tensor([0])}, path, metadata=metadata)
    with pytest.raises(UserError, match=r"schema version .* reads 1; measure it"):
        load_shift(path)

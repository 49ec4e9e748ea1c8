"""What of an arm can be exported as one vector a block, and what is refused by name."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from cmrm.errors import UserError
from cmrm.export.request import ConstantShift, make_constant
from cmrm.steering.intervention import Intervention, Stack
from cmrm.steering.projection import Projection

BLOCKS = (1, 3)


def intervene(**changes):
    delta = torch.arange(8, dtype=torch.float32).reshape(2, 4) + 1
    return Intervention(**{"delta": delta, "alpha": 0.5, "blocks": BLOCKS, **changes})


def test_an_incremental_shift_is_exported_as_the_differences_between_its_blocks():
    found = make_constant(intervene(), arm="Δ")
    assert found.subtracted.tolist() == [[1, 2, 3, 4], [4, 4, 4, 4]]
    assert found.added.tolist() == [[-0.5, -1, -1.5, -2], [-2, -2, -2, -2]]
    assert (found.blocks, found.scope) == (BLOCKS, "every_step")


def test_a_direct_shift_is_exported_as_it_stands():
    found = make_constant(intervene(composition="direct"), arm="Δ")
    assert found.subtracted.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


def test_a_stack_of_shifts_is_their_sum_at_the_blocks_of_any_with_its_strengths_inside():
    other = Intervention(delta=torch.ones(1, 4), alpha=2.0, blocks=(2,), composition="direct")
    same = Intervention(delta=torch.ones(1, 4), alpha=3.0, blocks=(3,), composition="direct")
    found = make_constant(Stack(parts=(intervene(composition="direct"), other, same)), arm="stack")
    assert found.blocks == (1, 2, 3)
    assert found.added.tolist() == [[-0.5, -1, -1.5, -2], [-2] * 4, [-5.5, -6, -6.5, -7]]


@pytest.mark.parametrize(
    ("steering", "reason"),
    [
        (None, "changes no hidden state"),
        (intervene(delta=torch.ones(3, 2, 4)), "level sample"),
        (intervene(scope="prefill"), "scope prefill"),
        (
            Projection(directions=torch.eye(4)[:2, None], alpha=1.0, blocks=BLOCKS, scope="all"),
            "depends on the state",
        ),
        (Stack(parts=(intervene(), intervene(scope="all"))), "at different tokens"),
    ],
)
def test_an_arm_that_is_no_constant_is_refused_by_name_with_the_reason(steering, reason):
    with pytest.raises(UserError, match=reason) as caught:
        make_constant(steering, arm="my arm")
    assert "'my arm'" in str(caught.value)
    assert "dataset level" in str(caught.value)


def test_acting_at_other_tokens_is_the_same_at_the_last_block_alone():
    def shift(*blocks):
        return ConstantShift(
            subtracted=torch.ones(len(blocks), 4), alpha=1.0, blocks=blocks, scope="every_step"
        )

    assert shift(7).is_same_at("every_position", last_block=7)
    assert not shift(6).is_same_at("every_position", last_block=7)
    assert not shift(6, 7).is_same_at("every_position", last_block=7)
    assert shift(6, 7).is_same_at("every_step", last_block=7)


def test_the_digest_is_of_blocks_and_vectors_and_not_of_the_strength():
    numbers = np.arange(4, dtype="<f4").reshape(1, 4)
    weak, strong = (
        ConstantShift(subtracted=torch.from_numpy(numbers), alpha=alpha, blocks=(2,), scope="all")
        for alpha in (0.5, 1.0)
    )
    assert weak.digest == strong.digest == f"sha256:{hashlib.sha256(b'(2,)' + numbers.tobytes()).hexdigest()}"


@pytest.mark.parametrize(
    "steering",
    [
        intervene(alpha=0.0),
        intervene(delta=torch.zeros(2, 4)),
        Stack(parts=(intervene(composition="direct"), intervene(composition="direct", alpha=0.0))[1:]),
    ],
)
def test_an_arm_that_adds_nothing_is_refused(steering):
    with pytest.raises(UserError, match="'my arm' adds nothing"):
        make_constant(steering, arm="my arm")

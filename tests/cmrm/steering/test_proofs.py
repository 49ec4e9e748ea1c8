"""Proofs of steering: those of prompts alone combine into that of their batch, and a batch's is shared out evenly."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt
from cmrm.steering.capture import read_prompt
from cmrm.steering.hooks import steer
from cmrm.steering.intervention import Intervention
from cmrm.steering.proof import SteeringProof, combine_proofs, share_proof

BLOCKS = (1, 3)


def prove(
    vlm: VisionLanguageModel, prompts: Sequence[Prompt], lengths: Sequence[float], *, alpha: float = 1.0
) -> SteeringProof:
    """Steer each prompt by a Δ of its own length at block 1 and three times that at block 3."""
    delta = torch.zeros(len(prompts), 2, vlm.hidden_size)
    for row, length in enumerate(lengths):
        delta[row, :, 0] = torch.tensor([length, 3 * length])
    inputs = render(vlm, prompts)
    own = Intervention(delta=delta, alpha=alpha, blocks=BLOCKS, scope="prefill")
    with steer(vlm, own, input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]) as proof:
        read_prompt(vlm, inputs, blocks=BLOCKS)
    return proof


def test_proofs_of_prompts_alone_combine_into_that_of_their_batch(
    vlm: VisionLanguageModel, text_prompts: Sequence[Prompt]
) -> None:
    lengths = [1.0, 2.0, 3.0][: len(text_prompts)]
    assert len(lengths) == len(text_prompts)
    together = prove(vlm, text_prompts, lengths)
    alone = [prove(vlm, [one], [length]) for one, length in zip(text_prompts, lengths, strict=True)]
    combined = combine_proofs(alone, BLOCKS)
    assert (
        (combined.acted, combined.unmoved)
        == (together.acted, together.unmoved)
        == ({1: 3, 3: 3}, {1: 0, 3: 0})
    )
    # Composed incrementally, block 3 subtracts what block 1 has not.
    assert combined.asked == pytest.approx({1: 2.0, 3: 4.0})
    assert together.asked == pytest.approx({1: 2.0, 3: 4.0})
    assert combined.distance == pytest.approx(together.distance, rel=1e-4)


def test_a_state_that_its_shift_is_too_small_to_move_is_counted(
    vlm: VisionLanguageModel, text_prompts: Sequence[Prompt]
) -> None:
    still, moved = prove(vlm, text_prompts[:1], [1e-30]), prove(vlm, text_prompts[1:2], [1.0])
    assert (still.unmoved, still.distance, still.acted) == ({1: 1, 3: 1}, {1: 0.0, 3: 0.0}, {1: 1, 3: 1})
    assert combine_proofs([still, moved], BLOCKS).unmoved == {1: 1, 3: 1}


def test_an_answer_that_failed_before_it_was_measured_counts_as_not_steered() -> None:
    whole = SteeringProof(acted={1: 4}, asked={1: 2.0}, distance={1: 1.0}, unmoved={1: 0})
    assert combine_proofs([whole, SteeringProof()], (1,)) == SteeringProof(
        acted={1: 4}, asked={1: 1.0}, distance={1: 0.5}, unmoved={1: 0}
    )
    assert combine_proofs([], (1,)) == SteeringProof(
        acted={1: 0}, asked={1: 0.0}, distance={1: 0.0}, unmoved={1: 0}
    )


@pytest.mark.parametrize(("distance", "unmoved"), [(0.25, 0), (0.0, 1)])
def test_a_batchs_proof_is_shared_out_among_its_rows(distance: float, unmoved: int) -> None:
    batch = SteeringProof(acted={2: 9}, asked={2: 0.5}, distance={2: distance}, unmoved={2: 3 * unmoved})
    row = share_proof(batch, rows=3)
    assert row == SteeringProof(acted={2: 3}, asked={2: 0.5}, distance={2: distance}, unmoved={2: unmoved})
    assert combine_proofs([row] * 3, (2,)) == batch

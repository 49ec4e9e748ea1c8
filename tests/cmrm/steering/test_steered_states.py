"""States read while an intervention acts: law 6, as a stage uses it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cmrm.models.vlm import VisionLanguageModel
from cmrm.prompts.conditions import Prompt
from cmrm.steering.capture import embed
from cmrm.steering.hooks import embed_steered
from cmrm.steering.intervention import Intervention
from cmrm.steering.shift import measure_sample_shift

BLOCKS = (1, 2)


def test_steered_states_are_read_after_the_intervention_and_unsteered_blocks_before_it_are_as_they_were(
    vlm: VisionLanguageModel, noise_prompts: Sequence[Prompt], text_prompts: Sequence[Prompt]
) -> None:
    delta = measure_sample_shift(vlm, with_image=noise_prompts, text_only=text_prompts, blocks=BLOCKS)
    plain = embed(vlm, noise_prompts, blocks=range(4))
    for alpha in (0.0, 0.5, 1.0):
        intervention = Intervention(delta=delta, alpha=alpha, blocks=BLOCKS, composition="incremental")
        steered = embed_steered(vlm, noise_prompts, blocks=range(4), intervention=intervention)
        torch.testing.assert_close(steered[:, 0], plain[:, 0])
        torch.testing.assert_close(steered[:, 1], plain[:, 1] - alpha * delta[:, 0], atol=1e-4, rtol=1e-4)
        if alpha == 0:
            torch.testing.assert_close(steered, plain)
    # Sample level at full strength: the first steered block holds the text's own state (law 1).
    text = embed(vlm, text_prompts, blocks=range(4))
    torch.testing.assert_close(steered[:, 1], text[:, 1], atol=1e-4, rtol=1e-4)

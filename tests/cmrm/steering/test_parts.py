"""Control prompts and the parts of Δ on a random LLaVA: what is read, at which positions, and that the parts add up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

import cmrm
from cmrm.models.control_prompts import FILLER, make_row
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import CONTROLS, Prompt
from cmrm.steering.capture import embed
from cmrm.steering.parts import PARTS, pair_conditions

IMAGE = 9


def show(prompts: Sequence[Prompt], condition: str) -> list[Prompt]:
    """Prompts with a blank image, as a condition shows them."""
    if condition == "query":
        return [replace(prompt, image=None) for prompt in prompts]
    return [replace(prompt, control=condition if condition in CONTROLS else None) for prompt in prompts]


def test_the_parts_add_up_to_delta_in_every_block(
    vlm: VisionLanguageModel, blank_prompts: Sequence[Prompt]
) -> None:
    blocks = range(len(vlm.blocks))

    def measure(part: str) -> torch.Tensor:
        later, earlier = (
            embed(vlm, show(blank_prompts, condition), blocks=blocks).double()
            for condition in pair_conditions(part, "blank")
        )
        return later - earlier

    whole = measure("all")
    parts = torch.stack([measure(part) for part in PARTS])
    torch.testing.assert_close(parts.sum(dim=0), whole, atol=1e-9, rtol=1e-9)
    # None of them is nothing in the last block.
    assert (parts[:, :, -1].norm(dim=-1) > 1e-2 * whole[:, -1].norm(dim=-1)).all()


def test_a_gap_is_the_text_prompt_read_at_the_positions_behind_the_image(
    vlm: VisionLanguageModel, blank_prompts: Sequence[Prompt]
) -> None:
    prompt = blank_prompts[0]
    alone, shown = (render(vlm, [one])["input_ids"][0] for one in (replace(prompt, image=None), prompt))
    before = shown.tolist().index(vlm.image_token_id)
    positions = torch.arange(len(alone))
    positions[before:] += len(shown) - len(alone)
    with torch.inference_mode():
        states = vlm.model(
            input_ids=alone[None],
            attention_mask=torch.ones_like(alone)[None],
            position_ids=positions[None],
            output_hidden_states=True,
        ).hidden_states
    found = embed(vlm, [replace(prompt, control="gap")], blocks=[0, 1])
    torch.testing.assert_close(
        found[0], torch.stack([states[1][0, -1], states[2][0, -1]]), atol=1e-4, rtol=1e-4
    )


def test_filler_has_text_in_the_place_of_each_image_token(
    vlm: VisionLanguageModel, blank_prompts: Sequence[Prompt]
) -> None:
    shown = render(vlm, blank_prompts[:1])["input_ids"][0].tolist()
    filled = render(vlm, [replace(blank_prompts[0], control="filler")])["input_ids"][0].tolist()
    inside = [own for own, other in zip(filled, shown, strict=True) if other == vlm.image_token_id]
    tokens = vlm.processor.tokenizer(FILLER, add_special_tokens=False)["input_ids"]
    assert inside == [tokens[place % len(tokens)] for place in range(len(inside))]


@pytest.mark.parametrize("span", [None, 2])
def test_what_is_cut_anew_beside_an_image_stands_behind_the_gap(span: int | None) -> None:
    # As SentencePiece cuts LLaVA's prompts: "▁What" alone, "▁", image, newline and "What" with an image.
    with_image, without = [1, 2, 3, IMAGE, IMAGE, IMAGE, 4, 5, 6, 7], [1, 2, 8, 6, 7]
    taken = 3 if span is None else span
    options = {
        "with_image": with_image,
        "without": without,
        "medium_tokens": {IMAGE},
        "places": None if span is None else [0, 1, 2, 3, 3, 3, *range(3 + span, 7 + span)],
        "filler": [0],
    }
    gap, marks = make_row("gap", **options), make_row("marks", **options)
    last = 6 + taken
    assert (gap.ids, gap.positions) == (without, [0, 1, last - 2, last - 1, last])
    assert marks.ids == [1, 2, 3, 4, 5, 6, 7]
    assert marks.positions == [0, 1, 2, last - 3, last - 2, last - 1, last]


def test_a_prompt_without_the_images_tokens_has_no_place_for_a_control() -> None:
    with pytest.raises(ValueError, match="no image token"):
        make_row("gap", with_image=[1, 2], without=[1, 2], medium_tokens={IMAGE}, places=None, filler=[0])
    with pytest.raises(ValueError, match="needs the image"):
        Prompt(text="what is it?", control="gap")


def test_controls_are_asked_for_by_their_words_and_may_be_mixed_with_other_prompts(
    vlm: VisionLanguageModel, text_prompts: Sequence[Prompt], blank_prompts: Sequence[Prompt]
) -> None:
    gap = cmrm.measure_shift(vlm, text_prompts, image="gap", blocks="all")
    marks = cmrm.measure_shift(vlm, text_prompts, image="marks", blocks="all")
    assert gap.made_from["image"] == "gap"
    assert (gap.delta - marks.delta).norm() > 1e-2
    mixed = [text_prompts[0], replace(blank_prompts[1], control="gap"), blank_prompts[2]]
    together = cmrm.hidden_states(vlm, mixed)
    alone = torch.cat([cmrm.hidden_states(vlm, [prompt]) for prompt in mixed])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="no common batch"):
        render(vlm, mixed)

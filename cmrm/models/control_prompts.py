"""Prompts under a control: the place that an image takes in a prompt, without the image.

A text prompt and an image prompt of one question begin and end with the same tokens. What stands between them in the
image prompt is the image's tokens, its marks, and text that the tokenizer cuts in another way beside them.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from cmrm.models.families import Family
from cmrm.prompts.conditions import Control

# Neutral text, repeated to the number of tokens that is asked for.
FILLER = " This is a line of plain text and it says nothing."


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """The tokens of one prompt, and the position of each, counted from 0."""

    ids: list[int]
    positions: list[int]


def explain_no_controls(family: Family, config: Any = None) -> str | None:
    """Explain why an image has no place in this family's prompts that a control could take; None if it has.

    `config` is the model's text config, if it is known already.
    """
    name = family.model_type
    if family.image_only_blocks is not None:
        return (
            f"{name} shows its image by cross-attention, where it takes no positions of the prompt, so Δ has no part "
            "of positions or marks; leave it out"
        )
    if not family.gaps:
        return (
            f"a gap in the positions of this {name} model does not do what an image does to the text behind it, so no "
            "control can take its place; leave it out"
        )
    if config is not None and not any(
        getattr(config, field, None) for field in ("rope_parameters", "rope_theta", "rope_scaling")
    ):
        return (
            f"the backbone of this {name} model has no rotary positions, and one that is learned for each place is not "
            "moved by a gap; leave it out"
        )
    return None


def make_row(
    control: Control,
    *,
    with_image: Sequence[int],
    without: Sequence[int],
    medium_tokens: Container[int],
    places: Sequence[int] | None,
    filler: Sequence[int],
) -> TokenRow:
    """Make a prompt under a control from the token ids of a question's image prompt and of its text prompt.

    `gap`: the text prompt, each token at its position in the image prompt. `marks`: the image prompt without its image
    tokens, at their positions. `filler`: the image prompt with tokens of `filler` for its image tokens, one position
    each. `places` are the positions of the image prompt's tokens; None for one a token.
    Raises `ValueError` for an image prompt without image tokens, and where the text has no room behind the image.
    """
    if not any(one in medium_tokens for one in with_image):
        raise ValueError("the image prompt has no image token, so the image has no place in it")
    if control == "filler":
        ids = _fill(with_image, medium_tokens, filler)
        return TokenRow(ids=ids, positions=list(range(len(ids))))
    places = range(len(with_image)) if places is None else places
    if control == "marks":
        kept = [number for number, one in enumerate(with_image) if one not in medium_tokens]
        return TokenRow(ids=[with_image[one] for one in kept], positions=[places[one] for one in kept])
    return TokenRow(ids=list(without), positions=_move(without, with_image, places))


def _fill(ids: Sequence[int], medium_tokens: Container[int], filler: Sequence[int]) -> list[int]:
    count = 0
    filled = []
    for one in ids:
        if one in medium_tokens:
            filled.append(filler[count % len(filler)])
            count += 1
        else:
            filled.append(one)
    return filled


def _move(without: Sequence[int], with_image: Sequence[int], places: Sequence[int]) -> list[int]:
    """Move each token of the text prompt to its position in the image prompt.

    Tokens that the image prompt has cut in another way stand right before what follows them, behind the gap.
    """
    shortest = min(len(without), len(with_image))
    before = _count_equal(without, with_image, shortest)
    behind = _count_equal(without[::-1], with_image[::-1], shortest - before)
    recut = len(without) - before - behind
    end = places[-behind] if behind else places[-1] + 1
    if recut and end - recut < (places[before - 1] + 1 if before else 0):
        raise ValueError("the tokenizer cuts the text beside the image in another way, and it fits in no gap")
    return [*places[:before], *range(end - recut, end), *places[len(places) - behind :]]


def _count_equal(one: Sequence[int], other: Sequence[int], most: int) -> int:
    return next((place for place in range(most) if one[place] != other[place]), most)

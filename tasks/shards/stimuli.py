"""Meaningless images checked where the vision tower sees them, before anything is measured with them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cmrm.errors import UserError
from cmrm.prompts.conditions import Condition
from cmrm.prompts.meaningless_images import MeaninglessImage
from tasks.shards.prompts import PromptBuilder

if TYPE_CHECKING:
    from PIL import Image

    from cmrm.models.vlm import VisionLanguageModel

log = logging.getLogger("cmrm.tasks")

# Field of a result's provenance: what was shown of meaningless images, by condition.
STIMULI = "stimuli"
# Field of one of them: a small picture of what the vision tower gets, with its number of tiles.
VIEW = "view"


def fit_images(
    showing: PromptBuilder, vlm: VisionLanguageModel, conditions: Iterable[Condition]
) -> PromptBuilder:
    """Fit noise of a stated contrast among `conditions` to the model's processor; the key content stays as it is.

    Raises `UserError` for a contrast that cannot be had.
    """
    from cmrm.models.noise_contrast import fit_contrast

    shown = {name: recipe for name in conditions if (recipe := showing.meaningless.get(name)) is not None}
    fitted = {name: fit_contrast(vlm, recipe) for name, recipe in shown.items()}
    return showing if fitted == shown else replace(showing, meaningless={**showing.meaningless, **fitted})


def check_stimuli(
    showing: PromptBuilder, vlm: VisionLanguageModel, conditions: Iterable[Condition], *, model: str
) -> dict[str, Any]:
    """Measure what the model's tower sees of the meaningless images among `conditions`, as provenance by condition.

    A blank that is not one colour there is logged if the spec gave its size.
    Raises `UserError`, naming a size, if the model's family chose it.
    """
    from cmrm.models.pixel_values import UnreadablePixelsError
    from cmrm.models.stimulus import examine_stimulus, explain_padding

    found: dict[str, Any] = {}
    for condition in dict.fromkeys(conditions):
        recipe = showing.meaningless.get(condition)
        if recipe is None:
            continue
        try:
            stimulus = examine_stimulus(vlm, recipe.render())
        except UnreadablePixelsError as error:
            # What was measured so far stays possible with such a model; the doctor fails it.
            log.warning("%s", error)
            continue
        found[condition] = {
            **stimulus.as_dict(),
            **_draw_view(vlm, recipe),
            "size_from": showing.size_from,
            **({} if recipe.contrast is None else {"stated_contrast": recipe.contrast, "gain": recipe.gain}),
        }
        if recipe.kind == "blank" and not stimulus.uniform:
            padding = explain_padding(vlm, partial(_draw, recipe))
            reason = (
                f"images.size: the {condition} image of {recipe.size} pixels, shown to {model}, {padding}."
            )
            if showing.size_from == "family":
                raise UserError(reason)
            log.warning("%s", reason)
    return found


def restore_gains(showing: PromptBuilder, provenance: Mapping[str, Any]) -> PromptBuilder:
    """Give noise of a stated contrast the gain that it was shown with, from the provenance of a result."""
    gains = {name: one["gain"] for name, one in provenance.get(STIMULI, {}).items() if "gain" in one}
    if not gains:
        return showing
    restored = {
        name: replace(recipe, gain=gains[name]) if name in gains else recipe
        for name, recipe in showing.meaningless.items()
    }
    return replace(showing, meaningless=restored)


def _draw_view(vlm: VisionLanguageModel, recipe: MeaninglessImage) -> dict[str, Any]:
    from cmrm.models.tower_view import view_pixels
    from cmrm.prompts.data_uri import to_png_uri

    view = view_pixels(vlm, recipe.render())
    if view is None:
        return {}
    return {VIEW: {"uri": to_png_uri(view.picture), "shown": view.shown, "tiles": view.tiles}}


def _draw(recipe: MeaninglessImage, size: int) -> Image.Image:
    return replace(recipe, size=size).render()

"""The meaningless images of a run, drawn once each for the report page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from PIL import Image

from cmrm.errors import UserError
from cmrm.prompts.data_uri import to_png_uri
from cmrm.prompts.meaningless_images import MeaninglessImage
from storage.records.manifest import Manifest
from tasks.report.summary import StimulusSummary
from tasks.shards.stimuli import STIMULI

# Longer side shown, in pixels; noise of more is cut, not scaled, since scaling would average it to grey.
SHOWN = 160


@dataclass(frozen=True, kw_only=True)
class StimulusPicture:
    """One meaningless image: the data URI of a PNG, and what it is in words."""

    uri: str
    caption: str


def draw_stimuli(responses: Iterable[Manifest], stimuli: Sequence[StimulusSummary]) -> list[StimulusPicture]:
    """Draw each meaningless image of answers from its recipe, with what the model's vision tower sees of it in words.

    Images that look the same are drawn once. Answers of earlier releases without a recipe are passed over.
    """
    seen = {(one.model, one.image): one for one in stimuli}
    pictures: dict[str, StimulusPicture] = {}
    for manifest in responses:
        condition, recipe = manifest.content.get("condition"), manifest.content.get("image")
        stimulus = seen.get((manifest.content.get("name", ""), condition or ""))
        if recipe is None or stimulus is None:
            continue
        gain = manifest.provenance.get(STIMULI, {}).get(condition, {}).get("gain")
        try:
            image = MeaninglessImage.from_dict(recipe, gain=gain).render()
        except (UserError, TypeError, ValueError):
            continue  # a control, or the recipe of another release
        picture = _draw(image, stimulus)
        pictures.setdefault(picture.uri + picture.caption, picture)
    return list(pictures.values())


def _draw(image: Image.Image, stimulus: StimulusSummary) -> StimulusPicture:
    shown = image.crop((0, 0, min(SHOWN, image.width), min(SHOWN, image.height)))
    caption = f"{stimulus.image}, {image.width} × {image.height} pixels"
    if shown.size != image.size:
        caption += f" (its upper left {shown.width} × {shown.height})"
    if stimulus.contrast is not None:
        caption += f"; contrast {fmean(stimulus.contrast):.1f} where the vision tower sees it"
    return StimulusPicture(uri=to_png_uri(shown), caption=caption)

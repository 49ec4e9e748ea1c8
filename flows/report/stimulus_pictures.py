"""The meaningless images of a run, drawn once each for the report page."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from PIL import Image

from cmrm.errors import UserError
from cmrm.prompts.data_uri import to_png_uri
from cmrm.prompts.meaningless_images import MeaninglessImage
from storage.records.manifest import Manifest
from tasks.report.model_names import shorten_models
from tasks.report.summary import StimulusSummary
from tasks.shards.stimuli import STIMULI, VIEW

# Longer side shown, in pixels; noise of more is cut, not scaled, since scaling would average it to grey.
SHOWN = 160


@dataclass(frozen=True, kw_only=True)
class StimulusPicture:
    """One meaningless image: the data URI of a PNG, and what it is in words."""

    uri: str
    caption: str


def draw_stimuli(responses: Iterable[Manifest], stimuli: Sequence[StimulusSummary]) -> list[StimulusPicture]:
    """Show each meaningless image of answers as the model's vision tower gets it, with its figures in words.

    Answers of earlier releases have no such picture: their images are drawn from the recipe, and those without a recipe
    are passed over. Images that look the same are shown once, with the models that saw them where others saw another.
    """
    seen = {(one.model, one.image): one for one in stimuli}
    pictures: dict[str, StimulusPicture] = {}
    seen_by: dict[str, set[str]] = {}
    for manifest in responses:
        condition, recipe = manifest.content.get("condition"), manifest.content.get("image")
        stimulus = seen.get((manifest.content.get("name", ""), condition or ""))
        if recipe is None or stimulus is None:
            continue
        seen_here = manifest.provenance.get(STIMULI, {}).get(condition, {})
        try:
            image = MeaninglessImage.from_dict(recipe, gain=seen_here.get("gain")).render()
        except (UserError, TypeError, ValueError):
            continue  # a control, or the recipe of another release
        picture = _show_view(image, stimulus, seen_here.get(VIEW)) or _draw(image, stimulus)
        look = picture.uri + picture.caption
        pictures.setdefault(look, picture)
        seen_by.setdefault(look, set()).add(stimulus.model)
    names = shorten_models(list(dict.fromkeys(one.model for one in stimuli)))
    return [
        picture
        if len(seen_by[look]) == len(names)
        else replace(picture, caption=f"{picture.caption}; {_list_models(names, seen_by[look])}")
        for look, picture in pictures.items()
    ]


def _list_models(names: Mapping[str, str], models: Container[str]) -> str:
    return "shown to " + ", ".join(short for model, short in names.items() if model in models)


def _show_view(
    image: Image.Image, stimulus: StimulusSummary, view: Mapping[str, Any] | None
) -> StimulusPicture | None:
    """Show the stored pixels behind the processor; None if there are none."""
    if view is None or not str(view["uri"]).startswith("data:image/png;base64,"):
        return None
    caption = f"{_name(image, stimulus)}, pixels sampled behind the processor"
    if view["tiles"] > 1:
        caption += f" (of {view['shown']} of its {view['tiles']} tiles)"
    return StimulusPicture(uri=view["uri"], caption=caption + _write_contrast(stimulus))


def _draw(image: Image.Image, stimulus: StimulusSummary) -> StimulusPicture:
    shown = image.crop((0, 0, min(SHOWN, image.width), min(SHOWN, image.height)))
    caption = f"{_name(image, stimulus)}, before the processor"
    if shown.size != image.size:
        caption += f" (its upper left {shown.width} × {shown.height})"
    return StimulusPicture(uri=to_png_uri(shown), caption=caption + _write_contrast(stimulus))


def _name(image: Image.Image, stimulus: StimulusSummary) -> str:
    return f"{stimulus.image}, {image.width} × {image.height} pixels"


def _write_contrast(stimulus: StimulusSummary) -> str:
    if stimulus.contrast is None:
        return ""
    return f"; contrast {fmean(stimulus.contrast):.1f} where the vision tower sees it"

"""The colour of `blank-mean`: the processor's own mean, which its normalisation maps to about zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmrm.models.image_backend import read_image_settings

Color = tuple[int, int, int]


def read_mean_color(folder: Path) -> Color | None:
    """Read the mean colour from a model's folder, without loading its processor; None if it names none."""
    return make_mean_color(read_image_settings(folder))


def find_mean_color(processor: Any) -> Color | None:
    """Find the mean colour of a loaded processor; None if it names none."""
    found = getattr(processor, "image_processor", None)
    return make_mean_color({"image_mean": getattr(found, "image_mean", None)})


def make_mean_color(settings: Mapping[str, Any]) -> Color | None:
    """Round an image processor's `image_mean`, of 0 to 1, to a colour of 0 to 255; None if it is not one."""
    mean = settings.get("image_mean")
    listed = [mean] * 3 if isinstance(mean, int | float) else mean
    if not isinstance(listed, Sequence) or len(listed) != 3:
        return None
    if not all(isinstance(one, int | float) and 0 <= one <= 1 for one in listed):
        return None
    red, green, blue = (round(255 * one) for one in listed)
    return red, green, blue

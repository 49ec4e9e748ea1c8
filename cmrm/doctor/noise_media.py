"""Noise in the forms that a prompt can show: several images, video, sound, and some of each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
from PIL import Image

from cmrm.models.families import MediaForm
from cmrm.prompts.counterparts import make_counterparts
from cmrm.prompts.meaningless_images import MeaninglessImage
from cmrm.prompts.media import Audio, LoadedMedium, MediumKind, Video

# Frames of a prompt's video and seconds of its sound, by the prompt's number: each prompt has another length.
FRAMES = (4, 2, 3)
SECONDS = (0.5, 0.25, 1.0)
FPS = 4.0
RATE = 16_000


def draw_media(
    form: MediaForm, *, size: int, seed: int, number: int, media: Collection[MediaForm]
) -> tuple[LoadedMedium, ...]:
    """Draw a prompt's noise in a form: `size` is the side of its first image in pixels, `number` is the prompt's.

    Prompts show two images of different sizes or three, a video of some frames, or up to a second of sound; `mixed` is
    an image with each other kind that the model takes, of its `media`.
    """
    images = (size, size), (size, size * 3 // 2), (size * 2, size)
    shown: list[LoadedMedium]
    match form:
        case "images":
            shown = [Image.new("RGB", one) for one in images[: 2 + number % 2]]
        case "mixed":
            kinds = [one for one in EMPTY if one in media]
            shown = [Image.new("RGB", images[0]), *(EMPTY[kind](size, number) for kind in kinds)]
        case _:
            shown = [EMPTY[form](size, number)]
    return make_counterparts(shown, MeaninglessImage(kind="noise", size=size, seed=seed))


def _make_video(size: int, number: int) -> Video:
    count = FRAMES[number % len(FRAMES)]
    return Video(frames=(Image.new("RGB", (size, size)),) * count, fps=FPS)


def _make_sound(_size: int, number: int) -> Audio:
    count = round(RATE * SECONDS[number % len(SECONDS)])
    return Audio(samples=np.zeros(count, dtype=np.float32), rate=RATE)


EMPTY: Mapping[MediumKind, Callable[[int, int], LoadedMedium]] = {"video": _make_video, "audio": _make_sound}

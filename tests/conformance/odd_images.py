"""Images of odd sizes and modes beside an ordinary one: which rows a family's model reads, and why not the others."""

from __future__ import annotations

import random
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# The builders' processors take it as it is, or make it smaller.
IMAGE_SIZE = 32
# Strips and single pixels, which some processors refuse.
ODD_SIZES = ((640, 2), (2, 640), (1, 1), (2, 2), (3, 3))
# Every mode in which Pillow reads a TIFF, and how many more images are drawn, each of a size and a mode by chance.
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F")
DRAWN, LARGEST = 8, 500


def show_odd_images(vlm: Any) -> dict[str, Any]:
    """Show every odd image to a tiny model: by the image's title, what `show_odd` returns."""
    odd = {
        f"{width}x{height}": show_odd(vlm, Image.new("RGB", (width, height), (90, 120, 30)))
        for width, height in ODD_SIZES
    }
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw_odd(vlm.family.model_type, Path(folder))
        return odd | {title: show_odd(vlm, image) for title, image in drawn}


def draw_odd(seed: str, folder: Path) -> Iterator[tuple[str, Image.Image]]:
    """Images of sizes and modes drawn by chance, small ones as often as large, as cmrm opens them from a file."""
    from cmrm.prompts.images import open_image

    chance = random.Random(seed)
    for number in range(DRAWN):
        width, height = (round(LARGEST ** chance.random()) for _ in range(2))
        mode = chance.choice(MODES)
        noise = np.frombuffer(chance.randbytes(width * height * 3), np.uint8).reshape(height, width, 3)
        grey = Image.fromarray(noise).convert("L")
        if mode == "I;16":
            image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        else:
            # Pillow turns colours into these three by way of grey alone.
            image = (grey if mode in ("LA", "I", "F") else Image.fromarray(noise)).convert(mode)
        image.save(folder / f"{number}.tiff")
        yield f"{width}x{height} {mode}", open_image(folder, f"{number}.tiff")


def show_odd(vlm: Any, image: Image.Image) -> dict[str, Any]:
    """Show an odd image beside an ordinary one: which rows are read, why others are not, and any error."""
    from cmrm.prefix.renderer import Renderer
    from cmrm.prompts.conditions import Prompt
    from cmrm.steering.capture import embed

    ordinary = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), (90, 120, 30))
    prompts = [Prompt(text="what is it?", image=one) for one in (image, ordinary)]
    try:
        rendered = Renderer(vlm).render(prompts)
        kept = [prompts[row] for row in rendered.kept]
        states = embed(vlm, kept, blocks=[0], rendered=rendered.inputs)
        return {
            "kept": list(rendered.kept),
            "refused": {str(row): why for row, why in rendered.refused.items()},
            "error": None if bool(states.isfinite().all()) else "states are not finite",
        }
    except Exception as error:  # noqa: BLE001 # whatever it is, it would have ended a run
        traceback.print_exc(file=sys.stderr)
        return {"kept": [], "refused": {}, "error": f"{type(error).__name__}: {error}"}

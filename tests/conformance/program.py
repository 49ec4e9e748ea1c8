"""Examine families' tiny models in a process of its own: `python -m tests.conformance.program FAMILY…`.

Prints a line of JSON a family: its name and findings, or the error that kept it from being examined. Where torchvision
is on the path, this process can use its transforms: transformers decides when it is imported whether it is there, so no
other process of the tests may see it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import random
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

# The builders' processors take it as it is, or make it smaller.
IMAGE_SIZE = 32
# Strips and single pixels, which some processors refuse.
ODD_SIZES = ((640, 2), (2, 640), (1, 1), (2, 2), (3, 3))
# Every mode in which Pillow reads a TIFF, and how many more images are drawn, each of a size and a mode by chance.
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F")
DRAWN, LARGEST = 8, 500


def main() -> None:
    """Examine the families that are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="+", metavar="FAMILY")
    names = parser.parse_args().families
    torch.set_num_threads(1)
    # Transformers is imported later, when torchvision can be.
    _operators = admit_torchvision()
    for name in names:
        print(json.dumps(examine_tiny(name)), flush=True)


def admit_torchvision() -> torch.library.Library | None:
    """Let torchvision be imported where its compiled part does not fit this torch, as long as the result is kept.

    A module of it asks for the signatures of two operators, which no image processor ever calls.
    """
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
    else:
        return None
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    importlib.import_module("torchvision")
    return operators


def examine_tiny(name: str) -> dict[str, Any]:
    """Build, load and examine a family's tiny model: its name, its findings, and the error where it did not load."""
    from cmrm.doctor import run_checks
    from tests.conformance.loading import load_tiny

    with tempfile.TemporaryDirectory() as folder:
        try:
            vlm = load_tiny(name, Path(folder))
        except Exception as error:  # noqa: BLE001 # whatever it is, the other families are still to be examined
            traceback.print_exc(file=sys.stderr)
            return {"family": name, "error": f"{type(error).__name__}: {error}", "findings": []}
        findings = [asdict(finding) for finding in run_checks(vlm, image_size=IMAGE_SIZE)]
        odd = {
            f"{width}x{height}": show_odd(vlm, Image.new("RGB", (width, height), (90, 120, 30)))
            for width, height in ODD_SIZES
        }
        odd |= {title: show_odd(vlm, image) for title, image in draw_odd(name, Path(folder))}
        corners = show_corners(vlm)
        derived = derive_again(vlm)
    found = {"findings": findings, "odd": odd, "corners": corners, "derived": derived}
    return {"family": name, "error": None, **found}


def derive_again(vlm: Any) -> dict[str, Any]:
    """Derive the row of a model as if its type were in no table: what it finds, or why it finds none.

    What people wrote for the type, its templates and system line, is given.
    """
    from cmrm.errors import UserError
    from cmrm.models.derived_family import derive_model
    from cmrm.models.families import Family

    row = vlm.family
    written = {name: getattr(row, name) for name in ("system", "template", "text_only_form")}
    given = Family(model_type="unlisted", blocks="", image_token="", **written)
    try:
        own = derive_model(vlm.model, vlm.processor, where="tiny", family=given)
    except UserError as error:
        return {"error": str(error)}
    return {
        "error": None,
        "blocks": list(own.blocks) == list(vlm.blocks),
        "image_token": own.image_token_id == vlm.image_token_id,
        "image_only_blocks": own.image_only_blocks == vlm.image_only_blocks,
        **{
            one: getattr(own.family, one)
            for one in ("positions", "first_position", "mixed_batches", "shares")
        },
    }


def show_corners(vlm: Any) -> list[Any]:
    """How many tiles the tower gets of an image with four colours, and the corners of the first in a view."""
    from cmrm.models.tower_view import view_pixels

    image = Image.new("RGB", (64, 64), "white")
    for color, corner in (("red", (0, 0)), ("lime", (32, 0)), ("blue", (0, 32))):
        image.paste(color, (*corner, corner[0] + 32, corner[1] + 32))
    view = view_pixels(vlm, image)
    assert view is not None
    side = view.picture.width // view.shown
    near, far = side // 8, side - 1 - side // 8
    return [view.tiles, *(view.picture.getpixel((x, y)) for y in (near, far) for x in (near, far))]


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


if __name__ == "__main__":
    main()

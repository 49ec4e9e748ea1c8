"""The corners of the view of an image with four colours: whether each part of it is in its place."""

from __future__ import annotations

from typing import Any

from PIL import Image


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

#!/usr/bin/env bash
# transformers 5.23.0 with pillow 13.0.0, numpy 2.4.6, Python 3.11 (Linux x86-64); no torch is needed.
#
# One would guess: an image processor makes the same pixels of a file, whether it is given the path or the image that
# `PIL.Image.open` gives of it.
# Seen: of a path it turns the image upright by its EXIF orientation and leaves out alpha, so that the colour that lies under
# what is transparent shows. Of an image it does neither: a photograph from a telephone lies on its side, and what is transparent
# is white. Nothing is logged; after resizing to a square, shapes tell nothing either.
#
# Output seen:
#   orientation 6, red left half: the path has red in the upper half, the image in the left half
#   transparent red: the path [255, 0, 0], the image [255, 255, 255]
#   transparent grey of 10: the path [10, 10, 10], the image [255, 255, 255]
#   opaque, upright: the same
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 pillow==13.0.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>warnings.txt <<'PYTHON' || { tail -3 warnings.txt; echo "this has changed"; exit 1; }
import sys

import numpy as np
from PIL import Image
from transformers import CLIPImageProcessorPil

ORIENTATION = 0x0112
# Resized to a square, with numbers left as they are.
processor = CLIPImageProcessorPil(
    size={"height": 8, "width": 8}, do_center_crop=False, do_rescale=False, do_normalize=False
)


def read(shown):
    return np.asarray(processor(shown)["pixel_values"][0], dtype=int)


def find_red(pixels):
    """Say which half is red, by its mean in the blue channel, which is 0 in red and 255 in white."""
    blue = pixels[2]
    halves = {"upper": blue[:4], "lower": blue[4:], "left": blue[:, :4], "right": blue[:, 4:]}
    return min(halves, key=lambda half: halves[half].mean())


wide = Image.new("RGB", (16, 8), "white")
wide.paste((255, 0, 0), (0, 0, 8, 8))
turned = Image.Exif()
turned[ORIENTATION] = 6
wide.save("turned.png", exif=turned)
Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save("red.png")
Image.new("LA", (8, 8), (10, 0)).save("grey.png")
wide.save("upright.png")

red = [find_red(read(shown)) for shown in ("turned.png", Image.open("turned.png"))]
told = [f"orientation 6, red left half: the path has red in the {red[0]} half, the image in the {red[1]} half"]
for name, file in (("transparent red", "red.png"), ("transparent grey of 10", "grey.png")):
    path, image = (read(shown)[:, 0, 0].tolist() for shown in (file, Image.open(file)))
    told.append(f"{name}: the path {path}, the image {image}")
same = np.array_equal(read("upright.png"), read(Image.open("upright.png")))
told.append(f"opaque, upright: {'the same' if same else 'not the same'}")
print("\n".join(told))
sys.exit(
    told
    != [
        "orientation 6, red left half: the path has red in the upper half, the image in the left half",
        "transparent red: the path [255, 0, 0], the image [255, 255, 255]",
        "transparent grey of 10: the path [10, 10, 10], the image [255, 255, 255]",
        "opaque, upright: the same",
    ]
)
PYTHON

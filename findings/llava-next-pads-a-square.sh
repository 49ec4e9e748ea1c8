#!/usr/bin/env bash
# transformers 5.23.0 with pillow 13.0.0, numpy 2.4.6, Python 3.11 (Linux x86-64); the settings of LLaVA-v1.6-7B's processor.
#
# One would guess: a square image of 336 pixels, which is the tower's own size, is seen as it is.
# Seen: of the grids that the settings allow, the one with the least waste for 336 x 336 is 336 x 672. The image becomes the middle of
# it, and both tiles are half padding, which is black: a white image is seen as a white one and two with black bars. At
# 500 and 672 pixels the grid is 672 x 672 and nothing is padded.
#
# Output seen:
#   336 px: 3 views, share of white pixels [1.0, 0.5, 0.5]
#   500 px: 5 views, share of white pixels [1.0, 1.0, 1.0, 1.0, 1.0]
#   672 px: 5 views, share of white pixels [1.0, 1.0, 1.0, 1.0, 1.0]
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
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

processor = LlavaNextImageProcessorPil(
    size={"shortest_edge": 336},
    crop_size={"height": 336, "width": 336},
    image_grid_pinpoints=[[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
)
seen = {}
for size in (336, 500, 672):
    (views,) = processor(Image.new("RGB", (size, size), "white"), return_tensors="np")["pixel_values"]
    # The first view is the whole image, resized.
    white = np.isclose(views, views[0, :, :1, :1]).all(axis=1)
    seen[size] = [round(float(one.mean()), 2) for one in white]
    print(f"{size} px: {len(views)} views, share of white pixels {seen[size]}")
sys.exit(seen != {336: [1.0, 0.5, 0.5], 500: [1.0] * 5, 672: [1.0] * 5})
PYTHON

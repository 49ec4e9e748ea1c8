"""Batches of rows that a processor takes one by one alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import BatchFeature

PIXELS = "pixel_values"


def join_rows(rows: Sequence[BatchFeature], tokenizer: Any, **padding: Any) -> BatchFeature:
    """Join prompts that were processed alone into one batch: tokens padded, tiles of all images in one list.

    `pixel_values` are [1, tiles, channels, height, width] of a row with an image, and [tiles of all rows, 1, …] after.
    """
    names = ("input_ids", "attention_mask")
    joined: dict[str, Any] = dict(
        tokenizer.pad(
            {name: [row[name][0] for row in rows] for name in names}, return_tensors="pt", **padding
        )
    )
    tiles = [row[PIXELS].flatten(0, 1) for row in rows if PIXELS in row]
    if tiles:
        joined[PIXELS] = torch.cat(tiles)[:, None]
    return BatchFeature(joined)

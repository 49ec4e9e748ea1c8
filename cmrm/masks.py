"""Attention masks of a decoding pass: which columns of the cache each fed token sees, for each kind of block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Masks = Tensor | dict[str, Tensor]


def make_masks(
    config: Any, *, visible: Tensor, query_positions: Tensor, key_positions: Tensor, dtype: torch.dtype
) -> Masks:
    """4-D masks for a decoder with this text config: one tensor, or one a kind of attention where it has several.

    `visible` is bool [rows, queries, columns]; positions are counted over real tokens, int64 [rows, queries] and
    [rows, columns], and narrow what blocks with a sliding window or chunks see. Bool for `sdpa`, else of `dtype`, 0
    where a token is seen and the lowest number where not.
    """
    kinds = set(getattr(config, "layer_types", None) or ())
    window: Any = getattr(config, "sliding_window", None)
    if not kinds - {"full_attention"}:
        # Without a list of kinds, a window is that of all blocks.
        if window is not None and not kinds:
            visible = visible & _within(window, query_positions, key_positions)
        return _finish(config, visible, dtype)
    masks = {}
    for kind in kinds:
        narrowed = visible
        if kind == "sliding_attention":
            narrowed = visible & _within(window, query_positions, key_positions)
        elif kind == "chunked_attention":
            size = config.attention_chunk_size
            narrowed = visible & (query_positions[:, :, None] // size == key_positions[:, None, :] // size)
        masks[kind] = _finish(config, narrowed, dtype)
    return masks


def _within(window: int, query_positions: Tensor, key_positions: Tensor) -> Tensor:
    return query_positions[:, :, None] - key_positions[:, None, :] < window


def _finish(config: Any, visible: Tensor, dtype: torch.dtype) -> Tensor:
    mask = visible[:, None]
    if config._attn_implementation == "sdpa":
        return mask
    lowest = torch.finfo(dtype).min
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, lowest)

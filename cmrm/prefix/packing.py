"""Pack the rests of several prompts into few rows behind one shared prefix, with the attention masks for it."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heapreplace
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, Cache

from cmrm.models.modules import find_backbone
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prefix.cache import Prefix, PromptBatch, is_text

Masks = Tensor | dict[str, Tensor]


def make_masks(
    config: Any, *, visible: Tensor, query_positions: Tensor, key_positions: Tensor, dtype: torch.dtype
) -> Masks:
    """Make 4-D attention masks for a decoder with this text config: one tensor, or one for each of its layer types.

    `visible` is bool [rows, queries, columns]; positions are counted over real tokens, int64 [rows, queries] and
    [rows, columns], and narrow the masks of sliding-window and chunked layers. Bool for `sdpa`, else of `dtype`: 0
    where a column is attended to, the lowest number elsewhere.
    """
    kinds = set(getattr(config, "layer_types", None) or ())
    window: Any = getattr(config, "sliding_window", None)
    if not kinds - {"full_attention"}:
        # Without `layer_types`, the window holds for all blocks.
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


# Tokens in a row: with more, most of the attention scores are between different prompts, and masked out; with fewer,
# the prefix is copied for more rows.
ROW_TOKENS = 256


# Share of padding in a batch from which on it is packed.
LEAST_PADDING = 0.05


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Prompts packed into rows: `ids` int64 [rows, tokens], and for each token its prompt and its index in the prompt.

    `owners` int64 [rows, tokens] numbers the prompts, −1 for padding; `places` counts each prompt's tokens from 0.
    `last` is int64 [prompts, 2]: the row and the column of each prompt's last token. `ends`, int64 [rows, ends], lists
    these columns for each row, and 0 where a row has fewer; `numbers`, int64 [prompts, 2], is a prompt's place there.
    """

    ids: Tensor
    owners: Tensor
    places: Tensor
    last: Tensor
    ends: Tensor
    numbers: Tensor


def is_padded_text(inputs: BatchFeature) -> bool:
    """Whether rendered prompts are text, at its usual positions, of so different lengths that packing them pays."""
    mask = inputs["attention_mask"]
    return (
        is_text(inputs)
        and "position_ids" not in inputs
        and int(mask.sum()) <= (1 - LEAST_PADDING) * mask.numel()
    )


def pack(vlm: VisionLanguageModel, batch: PromptBatch) -> Packed:
    """Pack what follows the prefix of each prompt into rows without padding between, on the model's device."""
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
    lengths = mask.sum(dim=1).tolist()
    rows, columns = _place(lengths)
    width = max(column + length for column, length in zip(columns, lengths, strict=True))
    starts = torch.tensor([rows, columns], device=ids.device)
    prompts, places = mask.nonzero(as_tuple=True)
    # A prompt's tokens are contiguous, with left or right padding.
    places = places - mask.int().argmax(dim=1)[prompts]
    target = starts[0][prompts] * width + starts[1][prompts] + places
    count = max(rows) + 1

    def spread(values: Tensor, empty: int) -> Tensor:
        flat = torch.full((count * width,), empty, dtype=torch.long, device=ids.device)
        return flat.index_put((target,), values).reshape(count, width)

    last = starts[1] + mask.sum(dim=1) - 1
    ends: list[list[int]] = [[] for _ in range(count)]
    numbers = []
    for row, column in zip(rows, last.tolist(), strict=True):
        numbers.append([row, len(ends[row])])
        ends[row].append(column)
    most = max(map(len, ends))
    # Built on the host, where the batch still is, and copied without a device synchronization.
    ids, owners, places, last, padded, numbered = (
        made.to(vlm.device, non_blocking=True)
        for made in (
            spread(ids[mask], 0),
            spread(prompts, -1),
            spread(places, 0),
            torch.stack([starts[0], last], dim=1),
            torch.tensor([[*row, *[0] * (most - len(row))] for row in ends]),
            torch.tensor(numbers),
        )
    )
    return Packed(ids=ids, owners=owners, places=places, last=last, ends=padded, numbers=numbered)


def read_packed(
    vlm: VisionLanguageModel, packed: Packed, *, prefix: Prefix, masks: Masks, cache: Cache
) -> None:
    """Run the backbone on packed prompts that continue the prefix of a cache; hooks read their states."""
    find_backbone(vlm)(
        input_ids=packed.ids,
        attention_mask=masks,
        position_ids=prefix.positions[:, None] + packed.places,
        past_key_values=cache,
        use_cache=True,
    )


def mask_packed(vlm: VisionLanguageModel, packed: Packed, *, prefix: Prefix) -> Masks:
    """Let each token attend to the prefix and to earlier tokens of its own prompt; padding attends to itself."""
    owners, places, shared = packed.owners, packed.places, prefix.mask.sum()
    columns = torch.arange(owners.shape[1], device=owners.device)
    own = (owners[:, :, None] == owners[:, None, :]) & (columns[:, None] >= columns)
    before = prefix.mask[:, None].expand(*owners.shape, -1)
    counted = (prefix.mask.long().cumsum(dim=1) - 1).expand(len(owners), -1)
    return make_masks(
        find_backbone(vlm).config,
        visible=torch.cat([before, own], dim=2),
        query_positions=shared + places,
        key_positions=torch.cat([counted, shared + places], dim=1),
        dtype=vlm.model.dtype,
    )


def _place(lengths: list[int]) -> tuple[list[int], list[int]]:
    """Assign each prompt a row and a first column, so that rows of about `ROW_TOKENS` are equally long."""
    count = -(-sum(lengths) // max(ROW_TOKENS, *lengths))
    rows, columns = [0] * len(lengths), [0] * len(lengths)
    filled = [(0, row) for row in range(count)]
    for prompt in sorted(range(len(lengths)), key=lambda one: -lengths[one]):
        # The longest that is left goes to the shortest row.
        columns[prompt], rows[prompt] = filled[0]
        heapreplace(filled, (columns[prompt] + lengths[prompt], rows[prompt]))
    return rows, columns

"""Many prompts that go on from one prefix, one behind the other in a row, which alone has a copy of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cmrm.masks import Masks, make_masks
from cmrm.model import VisionLanguageModel
from cmrm.parts import find_backbone
from cmrm.prefix_cache import open_cache
from cmrm.prompt_batch import Prefix, PromptBatch

# Tokens in a row: with more, most of what attention computes is of one prompt against another, to be masked out.
ROW_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Prompts packed into rows: `ids` int64 [rows, tokens], and for each token its prompt and its place in there.

    `owners` int64 [rows, tokens] numbers the prompts, −1 for padding; `places` counts their tokens from 0. `last` is
    int64 [prompts, 2]: the row and the column of each prompt's last token.
    """

    ids: Tensor
    owners: Tensor
    places: Tensor
    last: Tensor


def pack(vlm: VisionLanguageModel, batch: PromptBatch) -> Packed:
    """Lay what follows a prefix in each row, without its padding, one behind the other, on the model's device."""
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"].bool()
    lengths = mask.sum(dim=1).tolist()
    rows, columns = _place(lengths)
    width = max(column + length for column, length in zip(columns, lengths, strict=True))
    starts = torch.tensor([rows, columns], device=ids.device)
    prompts, places = mask.nonzero(as_tuple=True)
    # A prompt's tokens lie behind each other, on whichever side its padding is.
    places = places - mask.int().argmax(dim=1)[prompts]
    target = starts[0][prompts] * width + starts[1][prompts] + places
    count = max(rows) + 1

    def spread(values: Tensor, empty: int) -> Tensor:
        flat = torch.full((count * width,), empty, dtype=torch.long, device=ids.device)
        return flat.index_put((target,), values).reshape(count, width)

    ends = starts[1] + mask.sum(dim=1) - 1
    # Made on the host, where the batch still is, and sent without waiting for what the device has to do.
    ids, owners, places, last = (
        made.to(vlm.device, non_blocking=True)
        for made in (
            spread(ids[mask], 0),
            spread(prompts, -1),
            spread(places, 0),
            torch.stack([starts[0], ends], dim=1),
        )
    )
    return Packed(ids=ids, owners=owners, places=places, last=last)


def read_packed(vlm: VisionLanguageModel, batch: PromptBatch, packed: Packed) -> None:
    """Run the backbone on packed prompts that go on from the batch's only prefix; hooks see their states."""
    prefix = batch.prefix
    if prefix is None or prefix.mask.shape[0] != 1:
        raise ValueError("these prompts do not go on from one prefix; read them as they are")
    shared = prefix.mask.sum()
    rows = PromptBatch(inputs=batch.inputs, prefix=prefix, owners=packed.ids.new_zeros(len(packed.ids)))
    find_backbone(vlm)(
        input_ids=packed.ids,
        attention_mask=_mask(vlm, prefix, packed, shared),
        position_ids=prefix.positions[:, None] + packed.places,
        past_key_values=open_cache(rows),
        use_cache=True,
    )


def _mask(vlm: VisionLanguageModel, prefix: Prefix, packed: Packed, shared: Tensor) -> Masks:
    """Each token sees the prefix and what came before it of its own prompt; padding sees itself."""
    owners, places = packed.owners, packed.places
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
    """A row and a first column for each prompt, in order; a new row where one is full."""
    rows, columns = [], []
    row, column = 0, 0
    for length in lengths:
        if column and column + length > ROW_TOKENS:
            row, column = row + 1, 0
        rows.append(row)
        columns.append(column)
        column += length
    return rows, columns

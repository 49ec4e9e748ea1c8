"""The key-value cache of prompts that go on from shared prefixes: those are not copied, what is new is kept."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

from cmrm.model import VisionLanguageModel, send
from cmrm.parts import find_backbone
from cmrm.prompt_batch import PromptBatch


class SharedLayer(CacheLayerMixin):
    """One block's cache: `keys` and `values` are those of the new tokens alone, [rows, heads, tokens, head_dim]."""

    # Nothing is dropped here: where a block's window ends is for its mask to say.
    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, owners: Tensor) -> None:
        super().__init__()
        self.prefix = (keys, values)
        self.owners = owners
        self.shared = keys.shape[2]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Begin without a new token, on the device and in the dtype of these."""
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keep the new keys and values, and return all."""
        if self.keys is None or self.values is None:
            self.keys, self.values = key_states, value_states
            self.is_initialized = True
        else:
            self.keys = torch.cat([self.keys, key_states], dim=2)
            self.values = torch.cat([self.values, value_states], dim=2)
        return self.join()

    def join(self) -> tuple[Tensor, Tensor]:
        """All keys and values, the prefix's first, [rows, heads, prefix + new tokens, head_dim]; of no token, empty."""
        if self.keys is None or self.values is None:
            return self.prefix
        if self.shared == 0:
            return self.keys, self.values
        keys, values = (self._spread(one) for one in self.prefix)
        return torch.cat([keys, self.keys], dim=2), torch.cat([values, self.values], dim=2)

    def get_seq_length(self) -> int:
        """How many tokens it holds, the prefix's included."""
        return self.shared + (0 if self.keys is None else self.keys.shape[2])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How long a mask for so many tokens more has to be, and where it begins."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """No end."""
        return -1

    def _spread(self, shared: Tensor) -> Tensor:
        if shared.shape[0] == 1:
            return shared.expand(len(self.owners), -1, -1, -1)
        return shared[self.owners.to(shared.device)]


def open_cache(batch: PromptBatch) -> Cache:
    """A cache to read a batch with: one that begins with its prefix, or an empty one."""
    if batch.prefix is None or batch.owners is None:
        return DynamicCache()
    return Cache(layers=[SharedLayer(keys, values, batch.owners) for keys, values in batch.prefix.layers])


def read_rest(vlm: VisionLanguageModel, batch: PromptBatch, cache: Cache) -> Tensor:
    """Read what follows the prefixes of a batch into its cache; the last hidden states, [rows, new tokens, hidden].

    There is no image in it, so the backbone alone runs. `ValueError` for a batch without a prefix.
    """
    if batch.prefix is None or batch.owners is None:
        raise ValueError("this batch has no prefix to go on from; give its inputs to the model")
    prefix, inputs = batch.prefix, send(vlm, batch.inputs)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    columns = torch.arange(ids.shape[1], device=ids.device)
    made = find_backbone(vlm)(
        input_ids=ids,
        attention_mask=torch.cat([prefix.mask[batch.owners].to(mask.dtype), mask], dim=1),
        # One number a token: on text, all of a token's positions are the same.
        position_ids=prefix.positions[batch.owners][:, None] + columns,
        past_key_values=cache,
        use_cache=True,
    )
    hidden: Tensor = made.last_hidden_state
    return hidden


def full_layers(cache: Cache) -> list[tuple[Tensor, Tensor]]:
    """All keys and values that a cache of `open_cache` holds for each block: [rows, heads, tokens, head_dim].

    Prefixes are copied for each row here. For a block that was skipped, both are empty.
    """
    return [_join(layer) for layer in cache.layers]


def _join(layer: Any) -> tuple[Tensor, Tensor]:
    if isinstance(layer, SharedLayer):
        return layer.join()
    return (torch.empty(0), torch.empty(0)) if layer.keys is None else (layer.keys, layer.values)

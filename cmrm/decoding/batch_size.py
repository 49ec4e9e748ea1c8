"""Batch size from free memory: as many prompts as keep the device busy and leave the KV cache within its share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cmrm.models.memory import measure_free_bytes
from cmrm.models.vlm import VisionLanguageModel

# Tokens of one prefill pass: more take memory without making the device faster.
PASS_TOKENS = {"cuda": 16_384, "cpu": 4_096}
# Branches of one decoding pass: beyond this, time grows in proportion.
MOST_BRANCHES = 512
# Share of the free memory for the KV cache; the rest is for activations and other processes.
SHARE = 0.6


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Tokens that a device can take at once: `pass_tokens` in one pass, `cache_tokens` in the KV cache of each block.

    `blocks` is the number of decoder blocks.
    """

    pass_tokens: int
    cache_tokens: int
    blocks: int = 1

    def count_prompts(self, tokens: int) -> int:
        """Batch size of a prefill pass over prompts of `tokens` tokens, at least 1."""
        return max(1, self.pass_tokens // max(1, tokens))

    def count_rows(
        self, tokens: int, *, branches: int, new_tokens: int, alone: int = 0, requests: int = 1
    ) -> int:
        """Number of cache slots for prompts of `tokens` tokens with `branches` of `new_tokens` each, at least 1.

        `alone` more arms have slots of their own, as many each as the others have together. What they share of a
        prefill is held until they have all begun, for one of `requests` at a time.
        """
        columns = tokens + branches * new_tokens if branches else 0
        columns += alone * (tokens + new_tokens)
        if alone and alone + branches > 1:
            columns += tokens // requests
        return max(1, min(self.cache_tokens // columns, MOST_BRANCHES // (branches + alone)))

    def count_spread(self, tokens: int) -> int:
        """Number of copies of a prefix of `tokens` tokens in one pass, held for one block at a time, at least 1."""
        return max(1, self.cache_tokens * self.blocks // max(1, tokens))


def measure_budget(vlm: VisionLanguageModel) -> Budget:
    """Compute the budget of a loaded model from the memory that is free now."""
    free = measure_free_bytes(vlm.device)
    return Budget(
        pass_tokens=PASS_TOKENS.get(vlm.device.type, PASS_TOKENS["cpu"]),
        cache_tokens=int(SHARE * free) // count_cache_bytes(vlm),
        blocks=len(vlm.blocks),
    )


def count_cache_bytes(vlm: VisionLanguageModel) -> int:
    """Bytes of one token in the KV cache, over all blocks."""
    config = vlm.model.config.get_text_config()
    # Blocks may have heads of different widths, and then the config as a whole names none.
    each = getattr(config, "per_layer_config", None) or [config] * len(vlm.blocks)
    numbers = sum(_count_block(each[block]) for block in range(len(vlm.blocks)))
    return numbers * int(vlm.model.dtype.itemsize)


def _count_block(config: Any) -> int:
    """Numbers of one token in the KV cache of a block."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * heads * width)

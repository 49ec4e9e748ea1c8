"""How many prompts go together: as many as keep a device busy and fit into its free memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from cmrm.model import VisionLanguageModel

# Tokens that a pass reads at once: more do not make a device faster, they only take memory.
PASS_TOKENS = {"cuda": 16_384, "cpu": 4_096}
# Branches that are fed at once: with more, a pass takes longer by as much.
MOST_BRANCHES = 512
# Of the free memory, the rest being for activations, and for whoever else wants some.
SHARE = 0.6
# Where a machine does not say what is free.
UNKNOWN_BYTES = 4 << 30
# Where a container is told its limits.
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a device can do at once: `pass_tokens` read in one pass, and `cache_tokens` kept in the cache of each block.

    `blocks` is how many of these the model has.
    """

    pass_tokens: int
    cache_tokens: int
    blocks: int = 1

    def count_prompts(self, tokens: int) -> int:
        """How many prompts of so many tokens are read in one pass, at least one."""
        return max(1, self.pass_tokens // max(1, tokens))

    def count_rows(self, tokens: int, *, branches: int, new_tokens: int) -> int:
        """How many prompts are under way at once, at least one, each with so many branches of so many tokens."""
        columns = tokens + branches * new_tokens
        return max(1, min(self.cache_tokens // columns, MOST_BRANCHES // branches))

    def count_spread(self, tokens: int) -> int:
        """How many copies of so many tokens a pass can have, one block's at a time; at least one."""
        return max(1, self.cache_tokens * self.blocks // max(1, tokens))


def measure_budget(vlm: VisionLanguageModel) -> Budget:
    """The budget of a loaded model with the memory that is free now."""
    free = measure_free_bytes(vlm.device)
    return Budget(
        pass_tokens=PASS_TOKENS.get(vlm.device.type, PASS_TOKENS["cpu"]),
        cache_tokens=int(SHARE * free) // count_cache_bytes(vlm),
        blocks=len(vlm.blocks),
    )


def count_cache_bytes(vlm: VisionLanguageModel) -> int:
    """Bytes that a token takes in the key-value cache, over all blocks."""
    config = vlm.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * len(vlm.blocks) * heads * width * vlm.model.dtype.itemsize)


def measure_free_bytes(device: torch.device) -> int:
    """Memory that can still be taken on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch keeps for itself is free for its tensors.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    known = [free for free in (_read_available(), _read_container()) if free is not None]
    return min(known, default=UNKNOWN_BYTES)


def _read_available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return None


def _read_container() -> int | None:
    """What a container may still take, where its limit is told."""
    try:
        most, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return max(0, int(most) - int(used)) if most.isdecimal() else None

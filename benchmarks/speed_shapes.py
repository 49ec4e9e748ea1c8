"""The sizes of the models that are measured.

The numbers of `llava-7b` and `qwen-7b` are those of LLaVA-1.5-7B and Qwen2.5-VL-7B; the smaller ones keep the
proportions: 576 image tokens, a tower of a twentieth of the backbone's work, fewer key-value heads in Qwen's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

PATCH, MERGE = 14, 2


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a backbone and of its tower; `side` is the width of an image in pixels."""

    kind: str
    hidden: int
    wide: int
    blocks: int
    heads: int
    key_heads: int
    words: int
    tower_hidden: int
    tower_wide: int
    tower_blocks: int
    tower_heads: int
    side: int = 336

    @property
    def head(self) -> int:
        """Width of an attention head."""
        return self.hidden // self.heads


SHAPES: Mapping[str, Shape] = MappingProxyType(
    {
        # A smoke test of the script, which measures nothing.
        "llava-tiny": Shape(
            kind="llava", hidden=64, wide=128, blocks=4, heads=4, key_heads=4, words=2048,
            tower_hidden=32, tower_wide=64, tower_blocks=2, tower_heads=2, side=112,
        ),
        "qwen-tiny": Shape(
            kind="qwen", hidden=64, wide=128, blocks=4, heads=4, key_heads=2, words=2048,
            tower_hidden=32, tower_wide=64, tower_blocks=2, tower_heads=2, side=112,
        ),
        "llava-small": Shape(
            kind="llava", hidden=512, wide=1376, blocks=8, heads=8, key_heads=8, words=4096,
            tower_hidden=128, tower_wide=512, tower_blocks=6, tower_heads=4,
        ),
        "llava-medium": Shape(
            kind="llava", hidden=768, wide=2048, blocks=10, heads=12, key_heads=12, words=8192,
            tower_hidden=192, tower_wide=768, tower_blocks=8, tower_heads=4,
        ),
        "llava-7b": Shape(
            kind="llava", hidden=4096, wide=11008, blocks=32, heads=32, key_heads=32, words=32064,
            tower_hidden=1024, tower_wide=4096, tower_blocks=24, tower_heads=16,
        ),
        "qwen-small": Shape(
            kind="qwen", hidden=512, wide=2048, blocks=8, heads=8, key_heads=2, words=4096,
            tower_hidden=128, tower_wide=384, tower_blocks=6, tower_heads=4, side=672,
        ),
        "qwen-7b": Shape(
            kind="qwen", hidden=3584, wide=18944, blocks=28, heads=28, key_heads=4, words=152064,
            tower_hidden=1280, tower_wide=3420, tower_blocks=32, tower_heads=16, side=672,
        ),
    }
)  # fmt: skip

"""What the hardware allows: matrix throughput and memory bandwidth, measured, and what prompts and answers need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from speed_shapes import MERGE, PATCH, Shape
from speed_timing import time_once


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Measured: floating-point operations a second in matrix products of the model's shapes, bytes a second."""

    operations: float
    bandwidth: float


def measure_limits(shape: Shape, *, device: torch.device, dtype: torch.dtype) -> Limits:
    """The best of a few matrix products, and the best of a copy, a triad and a product of a matrix with a vector."""
    return Limits(
        operations=_measure_products(shape, device, dtype), bandwidth=_measure_bandwidth(device, dtype)
    )


def _measure_products(shape: Shape, device: torch.device, dtype: torch.dtype) -> float:
    rows = 8192 if device.type == "cuda" else 1024
    pairs = [(shape.hidden, shape.wide), (shape.wide, shape.hidden), (shape.hidden, shape.hidden)]
    best = 0.0
    for tokens in (rows // 2, rows, 2 * rows):
        for wide, high in pairs:
            left = torch.randn(tokens, wide, device=device, dtype=dtype)
            right = torch.randn(wide, high, device=device, dtype=dtype)
            out = torch.empty(tokens, high, device=device, dtype=dtype)
            repeats = 20 if device.type == "cuda" else 3

            def multiply(
                left: torch.Tensor = left,
                right: torch.Tensor = right,
                out: torch.Tensor = out,
                repeats: int = repeats,
            ) -> None:
                for _ in range(repeats):
                    torch.mm(left, right, out=out)

            multiply()
            seconds = min(time_once(multiply, device) for _ in range(5))
            best = max(best, 2 * tokens * wide * high * repeats / seconds)
    return best


def _measure_bandwidth(device: torch.device, dtype: torch.dtype) -> float:
    side = 16384 if device.type == "cuda" else 8192
    one = torch.randn(side, side, device=device, dtype=dtype)
    two, vector = torch.empty_like(one), torch.randn(side, device=device, dtype=dtype)
    size = one.numel() * one.element_size()
    arms = (
        (2 * size, lambda: two.copy_(one)),
        (3 * size, lambda: torch.add(one, two, alpha=2.0, out=two)),
        (size, lambda: torch.mv(one, vector)),
    )
    best = 0.0
    for moved, run in arms:
        run()
        best = max(best, moved / min(time_once(run, device) for _ in range(5)))
    return best


@dataclass(frozen=True, kw_only=True)
class Work:
    """How many operations and bytes a model of this shape needs: what cannot be left out, and no more."""

    shape: Shape
    size: int  # bytes a number

    @property
    def block_weights(self) -> int:
        """Numbers in the matrices of all decoder blocks."""
        one = self.shape
        attention = one.hidden * (2 * one.hidden + 2 * one.key_heads * one.head)
        return one.blocks * (attention + 3 * one.hidden * one.wide)

    @property
    def head_weights(self) -> int:
        return self.shape.hidden * self.shape.words

    def prompt(self, tokens: int, *, seen: int = 0) -> float:
        """Operations of the blocks on so many tokens of one prompt that follow `seen` others."""
        attended = tokens * seen + tokens * (tokens + 1) / 2
        return 2 * self.block_weights * tokens + 4 * self.shape.blocks * self.shape.hidden * attended

    def states(self, tokens: int, *, seen: int = 0) -> float:
        """Operations that the state at the last of so many tokens needs at least, at every block.

        All blocks but the last on all tokens; of the last, their keys and values, and the rest for one token.
        """
        one = self.shape
        below = self.prompt(tokens, seen=seen) * (one.blocks - 1) / one.blocks
        keys = 2 * one.hidden * one.key_heads * one.head
        rest = self.block_weights / one.blocks - keys
        return below + 2 * keys * tokens + 2 * rest + 4 * one.hidden * (seen + tokens)

    def image(self) -> float:
        """Operations of the tower on one picture; attention over all patches is counted, windows are not."""
        one = self.shape
        patches = (one.side // PATCH) ** 2
        matrices = 3 if one.kind == "qwen" else 2
        weights = 4 * one.tower_hidden**2 + matrices * one.tower_hidden * one.tower_wide
        attention = 0 if one.kind == "qwen" else 4 * one.tower_hidden * patches**2
        tower = one.tower_blocks * (2 * weights * patches + attention)
        inside = one.tower_hidden * (MERGE**2 if one.kind == "qwen" else 1)
        between = (
            inside * inside + inside * one.hidden
            if one.kind == "qwen"
            else one.hidden * (inside + one.hidden)
        )
        return tower + 2 * between * (patches // (MERGE**2 if one.kind == "qwen" else 1))

    def cache(self, tokens: int) -> int:
        """Bytes of the keys and values of so many tokens."""
        return 2 * self.shape.blocks * self.shape.key_heads * self.shape.head * tokens * self.size

    def decoding(self, prompt: int, lengths: Sequence[int], limits: Limits, *, rows: int) -> float:
        """Seconds at the limit to generate answers of these lengths, `rows` at a time without a gap.

        A step reads the weights once and the cache of each row; it is bound by that or by its operations.
        """
        steps = [(prompt + place) for length in lengths for place in range(1, length)]
        weights = (self.block_weights + self.head_weights) * self.size
        read = weights * -(-len(steps) // rows) + sum(self.cache(seen) for seen in steps)
        operations = sum(self.prompt(1, seen=seen) + 2 * self.head_weights for seen in steps)
        return max(read / limits.bandwidth, operations / limits.operations)

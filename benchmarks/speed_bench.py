"""Shared by all figures: the model, the amounts of work on this device, and the hardware limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from speed_limits import Limits, Work
from speed_shapes import Shape
from torch import Tensor

from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """Amounts of work: anchors, anchors for peers, prompts, new tokens, batch sizes to try."""

    anchors: int
    peer_pairs: int
    pictures: int
    batch: int
    new_tokens: int
    swept: int
    swept_tokens: int
    armed: int
    mixed: int
    mixed_tokens: int
    one_in: int
    stored: int
    shard: int
    sizes: Sequence[int]
    own_sizes: Sequence[int]


AMOUNTS: Mapping[str, Amounts] = MappingProxyType(
    {
        "cpu": Amounts(
            anchors=256, peer_pairs=16, pictures=8, batch=8, new_tokens=32, swept=8, swept_tokens=24, armed=16,
            mixed=24, mixed_tokens=96, one_in=32, stored=40, shard=16, sizes=(2, 4, 8), own_sizes=(16, 64, 128),
        ),
        "cuda": Amounts(
            anchors=256, peer_pairs=16, pictures=32, batch=32, new_tokens=64, swept=16, swept_tokens=48, armed=16,
            mixed=64, mixed_tokens=128, one_in=64, stored=320, shard=128, sizes=(8, 16, 32),
            own_sizes=(64, 256),
        ),
        # A smoke test.
        "tiny": Amounts(
            anchors=8, peer_pairs=4, pictures=2, batch=2, new_tokens=6, swept=2, swept_tokens=4, armed=2,
            mixed=4, mixed_tokens=16, one_in=8, stored=10, shard=4, sizes=(2,), own_sizes=(4,),
        ),
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A model under test; no turn of a figure but the first begins after `until`, on the monotonic clock."""

    name: str
    shape: Shape
    vlm: VisionLanguageModel
    amounts: Amounts
    limits: Limits
    turns: int
    until: float = float("inf")

    @property
    def device(self) -> torch.device:
        return self.vlm.device

    @property
    def work(self) -> Work:
        return Work(shape=self.shape, size=self.vlm.model.dtype.itemsize)

    @property
    def exact(self) -> bool:
        """Whether equal tokens can be required: in half precision, rounding changes some words."""
        return self.vlm.model.dtype == torch.float32

    @property
    def steered(self) -> tuple[int, ...]:
        """The upper half of the blocks but the last, whose state `output_hidden_states` gives after the final norm."""
        count = len(self.vlm.blocks)
        return tuple(range(count // 2, count - 1))


def find_lengths(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> tuple[int, list[int]]:
    """How many first tokens all prompts share, and the length of each."""
    inputs = render(vlm, prompts)
    rows = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]
    shortest = min(map(len, rows))
    shared = next(
        (place for place in range(shortest) if len({row[place] for row in rows}) > 1),
        shortest,
    )
    return shared, [len(row) for row in rows]


def compare_states(found: Tensor, wanted: Tensor) -> float:
    """The largest distance between two states over the size of the wanted one; blocks are the second-last dimension."""
    return float(((found - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max())


def compare_answers(found: Sequence[Sequence[object]], wanted: Sequence[Sequence[object]]) -> float:
    """The share of answers that are exactly equal."""
    pairs = [
        (one, other)
        for mine, theirs in zip(found, wanted, strict=True)
        for one, other in zip(mine, theirs, strict=True)
    ]
    return sum(one == other for one, other in pairs) / len(pairs)

"""Prompts to be answered in several ways, and what comes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from transformers import BatchFeature

from cmrm.answers import Answer
from cmrm.conditions import Prompt
from cmrm.steering import Intervention

Way = Intervention | None


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some prompts, and the ways in which each is to be answered; None among `ways` is the plain one.

    An intervention's `delta` is [blocks, hidden], or [prompts, blocks, hidden] with one Δ a prompt. `wanted` says for
    each prompt which ways, by their number, are wanted of it; None for all of all. `rendered` are the prompts as
    `cmrm.renderer` made them beforehand, where it did.
    """

    prompts: Sequence[Prompt]
    ways: Sequence[Way]
    wanted: Sequence[frozenset[int]] | None = None
    rendered: BatchFeature | None = None

    def ways_of(self, row: int) -> frozenset[int]:
        """The ways wanted of a prompt."""
        return frozenset(range(len(self.ways))) if self.wanted is None else self.wanted[row]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A prompt that has been answered: the number of its group, its row in there, and an answer for each wanted way.

    `acted` says for each way that intervenes, and each of its blocks, how many states were moved; `moved` how far the
    last prompt token's was, and `asked` how far it was to be, the length of αΔ.
    """

    group: int
    row: int
    answers: Mapping[int, Answer]
    acted: Mapping[int, Mapping[int, int]]
    moved: Mapping[int, Mapping[int, float]]
    asked: Mapping[int, Mapping[int, float]]

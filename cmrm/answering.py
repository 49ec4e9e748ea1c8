"""Answer prompts in several ways at once: plainly, and under each of some interventions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from cmrm.answers import Answer
from cmrm.conditions import Prompt
from cmrm.generation import generate
from cmrm.model import VisionLanguageModel
from cmrm.prefix import Prefixes
from cmrm.steering import Intervention

Way = Intervention | None


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some prompts, and the ways in which each is to be answered; None among `ways` is the plain one.

    An intervention's `delta` is [blocks, hidden], or [prompts, blocks, hidden] with one Δ a prompt. `wanted` says for
    each prompt which ways, by their number, are wanted of it; None for all of all.
    """

    prompts: Sequence[Prompt]
    ways: Sequence[Way]
    wanted: Sequence[frozenset[int]] | None = None

    def ways_of(self, row: int) -> frozenset[int]:
        """The ways wanted of a prompt."""
        return frozenset(range(len(self.ways))) if self.wanted is None else self.wanted[row]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """A prompt that has been answered: the number of its group, its row in there, and an answer for each wanted way.

    `acted` says for each way that intervenes, and each of its blocks, how many states were moved.
    """

    group: int
    row: int
    answers: Mapping[int, Answer]
    acted: Mapping[int, Mapping[int, int]]


@torch.inference_mode()
def answer(
    vlm: VisionLanguageModel,
    groups: Iterable[Group],
    *,
    max_new_tokens: int,
    rows: int,
    prefixes: Prefixes | None = None,
) -> Iterator[Answered]:
    """Answer groups of prompts as they come, greedily, and yield each prompt when all its ways have ended.

    At most `rows` prompts are under way at once (a larger group alone is refused with `ValueError`); a group is taken
    as soon as there is room for it. Answers do not depend on how the prompts are grouped.
    """
    del prefixes
    for number, group in enumerate(groups):
        if len(group.prompts) > rows:
            raise ValueError(f"a group of {len(group.prompts)} prompts does not fit into {rows} rows")
        ways = [
            generate(vlm, group.prompts, max_new_tokens=max_new_tokens, intervention=way)
            for way in group.ways
        ]
        for row in range(len(group.prompts)):
            yield Answered(
                group=number,
                row=row,
                answers={way: ways[way].answers[row] for way in group.ways_of(row)},
                acted={
                    way: {block: count // len(group.prompts) for block, count in proof.acted.items()}
                    for way in group.ways_of(row)
                    if (proof := ways[way].proof) is not None
                },
            )

"""This project's own calls, as its stages make them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cmrm.answering import Group, answer
from cmrm.capture import embed
from cmrm.conditions import Prompt
from cmrm.generation import generate
from cmrm.model import VisionLanguageModel
from cmrm.prefix import Prefixes
from cmrm.shift import ShiftMean, measure_sample_shift
from cmrm.steering import Intervention

Way = Intervention | None
# Answers of each way, each a list in the order of the prompts: text and number of tokens.
Said = list[list[tuple[str, int]]]


def cut(prompts: Sequence[Prompt], size: int) -> Iterator[Sequence[Prompt]]:
    """Batches of at most `size`."""
    for start in range(0, len(prompts), size):
        yield prompts[start : start + size]


def measure_shift(
    vlm: VisionLanguageModel, blank: Sequence[Prompt], text: Sequence[Prompt], *, size: int
) -> Tensor:
    """The dataset-level Δ at all blocks: float32 [blocks, hidden]; what prompts share is found anew at each call."""
    blocks = range(len(vlm.blocks))
    mean = ShiftMean(blocks=blocks, hidden_size=vlm.hidden_size)
    prefixes = Prefixes(vlm)
    for with_image, without in zip(cut(blank, size), cut(text, size), strict=True):
        mean.add(
            embed(vlm, with_image, blocks=blocks, prefixes=prefixes),
            embed(vlm, without, blocks=blocks, prefixes=prefixes),
        )
    return mean.finish().delta


def read_states(vlm: VisionLanguageModel, prompts: Sequence[Prompt], *, size: int) -> Tensor:
    """States at all blocks, float32 [prompts, blocks, hidden], on the processor."""
    prefixes = Prefixes(vlm)
    blocks = range(len(vlm.blocks))
    parts = [embed(vlm, batch, blocks=blocks, prefixes=prefixes) for batch in cut(prompts, size)]
    return torch.cat(parts).cpu()


def sample_shift(
    vlm: VisionLanguageModel,
    blank: Sequence[Prompt],
    text: Sequence[Prompt],
    *,
    blocks: Sequence[int],
    prefixes: Prefixes,
) -> Tensor:
    """Each prompt's own Δ: float32 [prompts, blocks, hidden]."""
    return measure_sample_shift(vlm, with_image=blank, text_only=text, blocks=blocks, prefixes=prefixes)


def answer_ways(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt],
    ways: Sequence[Way],
    *,
    new_tokens: int,
    rows: int,
    group: int,
    prefixes: Prefixes | None = None,
) -> Said:
    """Answer prompts in all ways in one pass, `group` prompts at a time and at most `rows` under way."""
    groups = [Group(prompts=batch, ways=ways) for batch in cut(prompts, group)]
    return collect(vlm, groups, new_tokens=new_tokens, rows=rows, prefixes=prefixes or Prefixes(vlm))


def collect(
    vlm: VisionLanguageModel, groups: Sequence[Group], *, new_tokens: int, rows: int, prefixes: Prefixes
) -> Said:
    """Answers to groups that have the same number of ways."""
    starts = [0]
    for group in groups:
        starts.append(starts[-1] + len(group.prompts))
    said: Said = [[("", 0)] * starts[-1] for _ in groups[0].ways]
    for one in answer(vlm, groups, max_new_tokens=new_tokens, rows=rows, prefixes=prefixes):
        for way, reply in one.answers.items():
            said[way][starts[one.group] + one.row] = (reply.text, reply.tokens)
    return said


def answer_batch(vlm: VisionLanguageModel, prompts: Sequence[Prompt], way: Way, *, new_tokens: int) -> Said:
    """Answer one batch by `generate`, under an intervention's hooks where there is one."""
    replies = generate(vlm, prompts, max_new_tokens=new_tokens, intervention=way).answers
    return [[(reply.text, reply.tokens) for reply in replies]]

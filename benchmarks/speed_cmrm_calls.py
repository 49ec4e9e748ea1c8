"""This project's calls to extract states, measure Δ and decode, as its stages make them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cmrm.decoding.api import DecodeRequest, answer, generate
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prefix.planner import Prefixes
from cmrm.prompts.conditions import Prompt
from cmrm.steering.capture import embed
from cmrm.steering.intervention import Intervention
from cmrm.steering.shift import ShiftMean, measure_sample_shift

Arm = Intervention | None
# Answers of each arm, a list in the order of the prompts: text and number of tokens.
Said = list[list[tuple[str, int]]]


def subtract(delta: Tensor, *, alpha: float, blocks: tuple[int, ...]) -> Intervention:
    """Subtract αΔ at each block by itself, as the peers' hooks do."""
    return Intervention(delta=delta, alpha=alpha, blocks=blocks, composition="direct")


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


def answer_arms(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt],
    arms: Sequence[Arm],
    *,
    new_tokens: int,
    rows: int,
    request_size: int,
    prefixes: Prefixes | None = None,
) -> Said:
    """Decode all arms in one pass, `request_size` prompts per decode request and at most `rows` slots in use."""
    requests = [DecodeRequest(prompts=batch, arms=arms) for batch in cut(prompts, request_size)]
    return collect(vlm, requests, new_tokens=new_tokens, rows=rows, prefixes=prefixes or Prefixes(vlm))


def collect(
    vlm: VisionLanguageModel,
    requests: Sequence[DecodeRequest],
    *,
    new_tokens: int,
    rows: int,
    prefixes: Prefixes,
) -> Said:
    """Answers to decode requests with the same number of arms."""
    starts = [0]
    for request in requests:
        starts.append(starts[-1] + len(request.prompts))
    said: Said = [[("", 0)] * starts[-1] for _ in requests[0].arms]
    for one in answer(vlm, requests, max_new_tokens=new_tokens, rows=rows, prefixes=prefixes):
        for arm, reply in one.answers.items():
            said[arm][starts[one.group] + one.row] = (reply.text, reply.tokens)
    return said


def answer_batch(vlm: VisionLanguageModel, prompts: Sequence[Prompt], arm: Arm, *, new_tokens: int) -> Said:
    """Decode one batch by `generate`, under the hooks of an intervention if given."""
    replies = generate(vlm, prompts, max_new_tokens=new_tokens, intervention=arm).answers
    return [[(reply.text, reply.tokens) for reply in replies]]

"""Choose the batch size where a spec sets none: measured on the longest prompts, before the first batch."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cmrm.prompts.conditions import TEXT_ONLY, Condition, Prompt
from cmrm.prompts.images import count_pixels
from tasks.core.oom import run_unless_oom
from tasks.shards.batches import split_batches
from tasks.shards.isolation import may_be_of_a_sample
from tasks.shards.prompts import PromptBuilder, prepare_batch
from tasks.shards.samples import StoredSample

if TYPE_CHECKING:
    from cmrm.prefix.planner import Prefixes
    from cmrm.prefix.renderer import Renderer


def choose_batch_size(
    renderer: Renderer,
    showing: PromptBuilder,
    condition: Condition,
    samples: Sequence[StoredSample],
    prefixes: Prefixes,
) -> int:
    """Choose how many samples share a prefill: enough to keep the device busy, the shared prefix not counted."""
    from cmrm.decoding.batch_size import measure_budget

    if not renderer.vlm.family.batches:
        return 1
    fed, columns = _measure(renderer, showing, condition, samples, prefixes)
    budget = measure_budget(renderer.vlm)
    return min(budget.count_prompts(fed), budget.count_spread(columns))


def choose_rows(
    renderer: Renderer,
    showing: PromptBuilder,
    condition: Condition,
    samples: Sequence[StoredSample],
    prefixes: Prefixes,
    *,
    arms: int,
    alone: int,
    requests: int,
    max_new_tokens: int,
) -> int:
    """Choose how many samples are decoded at once, as many as free memory allows.

    Each is decoded under `arms` arms that share a prefill, and `alone` that have one of their own; a full batch has so
    many decode requests.
    """
    from cmrm.decoding.batch_size import measure_budget

    if not renderer.vlm.family.batches:
        return 1
    _, columns = _measure(renderer, showing, condition, samples, prefixes)
    return measure_budget(renderer.vlm).count_rows(
        columns, branches=arms, alone=alone, requests=requests, new_tokens=max_new_tokens
    )


def _measure(
    renderer: Renderer,
    showing: PromptBuilder,
    condition: Condition,
    samples: Sequence[StoredSample],
    prefixes: Prefixes,
) -> tuple[int, int]:
    """Count the tokens of the longest prompt: those after the shared prefix, and all of them."""
    # Samples without a valid prompt are quarantined later, and cannot be measured.
    chosen = _choose_longest(showing, condition, samples)
    batches = list(split_batches(chosen, len(chosen)))
    prompts = [
        prompt
        for batch in batches
        for prompt in prepare_batch(renderer, showing, batch, condition, stage="").prompts
    ]
    if not prompts:
        return 1, 1
    found: list[tuple[int, int]] = []
    try:
        if len(batches) == 1 and run_unless_oom(lambda: found.append(_count_tokens(prefixes, prompts))):
            return found[0]
    except Exception as error:
        # Measuring runs a prefill of the shared prefix: if the model fails on it, its job quarantines the sample.
        if not may_be_of_a_sample(error):
            raise
    # A single prompt shares no prefix, so no prefill is run.
    return max(_count_tokens(prefixes, [prompt]) for prompt in prompts)


def _choose_longest(
    showing: PromptBuilder, condition: Condition, samples: Sequence[StoredSample]
) -> list[StoredSample]:
    """The two samples with the longest texts and the two with the largest images: two may share a prefix."""

    def measure_text(stored: StoredSample) -> int:
        sample = stored.sample
        shown = (sample.question, sample.caption if condition == "caption" else None)
        return sum(len(text or "") for text in shown)

    chosen = heapq.nlargest(2, samples, key=measure_text)
    if condition not in TEXT_ONLY and showing.images is not None:
        # Where images keep their resolution, the largest has the most tokens, and so has what stands for media.
        images = showing.images
        if condition != "image":
            samples = [stored for stored in samples if stored.sample.media]
        media = {medium for stored in samples for medium in stored.sample.shown}
        pixels = {one: count_pixels(images, one.name) * (one.frames or 1) for one in media}
        chosen += heapq.nlargest(
            2, samples, key=lambda stored: sum(pixels[one] for one in stored.sample.shown)
        )
    return list({stored.sample.id: stored for stored in chosen}.values())


def _count_tokens(prefixes: Prefixes, prompts: Sequence[Prompt]) -> tuple[int, int]:
    batch = prefixes.lay_out(prompts)
    fed = int(batch.inputs["input_ids"].shape[1])
    return fed, fed + (0 if batch.prefix is None else batch.prefix.tokens)

"""How many samples go together where a spec leaves it open: measured on the longest prompts, before the first batch."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cmrm.conditions import Condition, Prompt
from cmrm.images import count_pixels
from tasks.oom import fits_into_memory
from tasks.prompts import Showing, prepare_batch
from tasks.samples import StoredSample

if TYPE_CHECKING:
    from cmrm.prefix import Prefixes
    from cmrm.renderer import Renderer


def choose_batch_size(
    renderer: Renderer,
    showing: Showing,
    condition: Condition,
    samples: Sequence[StoredSample],
    prefixes: Prefixes,
) -> int:
    """How many samples are read in one pass: as many as keep the device busy, what they share not counted."""
    from cmrm.budget import measure_budget

    fed, columns = _measure(renderer, showing, condition, samples, prefixes)
    budget = measure_budget(renderer.vlm)
    return min(budget.count_prompts(fed), budget.count_spread(columns))


def choose_rows(
    renderer: Renderer,
    showing: Showing,
    condition: Condition,
    samples: Sequence[StoredSample],
    prefixes: Prefixes,
    *,
    ways: int,
    max_new_tokens: int,
) -> int:
    """How many samples are under way at once, each answered in so many ways: as many as memory has room for."""
    from cmrm.budget import measure_budget

    _, columns = _measure(renderer, showing, condition, samples, prefixes)
    return measure_budget(renderer.vlm).count_rows(columns, branches=ways, new_tokens=max_new_tokens)


def _measure(
    renderer: Renderer,
    showing: Showing,
    condition: Condition,
    samples: Sequence[StoredSample],
    prefixes: Prefixes,
) -> tuple[int, int]:
    """The tokens of the longest prompt: those that are read of it besides what is shared, and all."""
    # What cannot be asked is quarantined later, and cannot be measured.
    prompts = prepare_batch(
        renderer, showing, _choose_longest(showing, condition, samples), condition, stage=""
    ).prompts
    if not prompts:
        return 1, 1
    found: list[tuple[int, int]] = []
    if fits_into_memory(lambda: found.append(_count_tokens(prefixes, prompts))):
        return found[0]
    # What they share is read to be measured; of one alone nothing is.
    return max(_count_tokens(prefixes, [prompt]) for prompt in prompts)


def _choose_longest(
    showing: Showing, condition: Condition, samples: Sequence[StoredSample]
) -> list[StoredSample]:
    """The samples with the longest texts and those with the largest images, two of each: two may share something."""

    def measure_text(stored: StoredSample) -> int:
        sample = stored.sample
        shown = (sample.question, sample.caption if condition == "caption" else None)
        return sum(len(text or "") for text in shown)

    chosen = heapq.nlargest(2, samples, key=measure_text)
    if condition == "image" and showing.images is not None:
        # Where images are read at their own resolution, the largest has the most tokens.
        pixels = {
            name: count_pixels(showing.images, name) for stored in samples if (name := stored.sample.image)
        }
        chosen += heapq.nlargest(2, samples, key=lambda stored: pixels.get(stored.sample.image or "", 0))
    return list({stored.sample.id: stored for stored in chosen}.values())


def _count_tokens(prefixes: Prefixes, prompts: Sequence[Prompt]) -> tuple[int, int]:
    batch = prefixes.lay_out(prompts)
    fed = int(batch.inputs["input_ids"].shape[1])
    return fed, fed + (0 if batch.prefix is None else batch.prefix.tokens)

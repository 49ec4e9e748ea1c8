"""How many samples go together where a spec leaves it open: measured on the longest, before the first batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cmrm.conditions import Condition, Prompt
from tasks.batches import measure_question
from tasks.fitting import fits
from tasks.prompts import Showing
from tasks.samples import StoredSample

if TYPE_CHECKING:
    from cmrm.model import VisionLanguageModel
    from cmrm.prefix import Prefixes


def choose_batch_size(
    vlm: VisionLanguageModel,
    showing: Showing,
    condition: Condition,
    samples: Sequence[StoredSample],
    prefixes: Prefixes,
) -> int:
    """How many samples are read in one pass: as many as keep the device busy, what they share not counted."""
    from cmrm.budget import measure_budget

    fed, columns = _measure(vlm, showing, condition, samples, prefixes)
    budget = measure_budget(vlm)
    return min(budget.count_prompts(fed), budget.count_spread(columns))


def choose_rows(
    vlm: VisionLanguageModel,
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

    _, columns = _measure(vlm, showing, condition, samples, prefixes)
    return measure_budget(vlm).count_rows(columns, branches=ways, new_tokens=max_new_tokens)


def _measure(
    vlm: VisionLanguageModel,
    showing: Showing,
    condition: Condition,
    samples: Sequence[StoredSample],
    prefixes: Prefixes,
) -> tuple[int, int]:
    """The tokens of the longest prompt: those that are read of it besides what is shared, and all."""
    from cmrm.model import find_special_token

    prompts = (
        showing.show(stored, condition) for stored in sorted(samples, key=measure_question, reverse=True)
    )
    # One with a special token is set aside later, and cannot be measured.
    sound = (prompt for prompt in prompts if find_special_token(vlm, prompt) is None)
    # Two, since it takes two to share something.
    measured = [prompt for prompt, _ in zip(sound, range(2), strict=False)]
    if not measured:
        return 1, 1
    found: list[tuple[int, int]] = []
    if fits(lambda: found.append(_count_tokens(prefixes, measured))):
        return found[0]
    # What two share is read to be measured; of one nothing is.
    return _count_tokens(prefixes, measured[:1])


def _count_tokens(prefixes: Prefixes, prompts: Sequence[Prompt]) -> tuple[int, int]:
    batch = prefixes.lay_out(prompts)
    fed = int(batch.inputs["input_ids"].shape[1])
    return fed, fed + (0 if batch.prefix is None else batch.prefix.tokens)

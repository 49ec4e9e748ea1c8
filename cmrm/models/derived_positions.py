"""Find the positions under which a model reads prompts, and whether a gap in them can stand for an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import BatchFeature

from cmrm.models.families import Family, Positions
from cmrm.models.forward_arguments import position_ids
from cmrm.models.generation_trace import Trace, UnderivableError
from cmrm.models.multimodal_positions import locate_tokens
from cmrm.models.prompt_states import choose_tolerance, compare_states, read_inputs, read_states
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt

# Positions by which the text is moved to see whether the decoder heeds them.
GAP = 9


def find_positions(
    vlm: VisionLanguageModel, prompts: Sequence[Prompt], traces: Sequence[Trace], path: str
) -> Family:
    """Find the positions under which a pass gives the states from which the model generates."""
    expected = [
        {one.number: one.made[:, -1] for one in trace.calls if one.path == path and one.made is not None}
        for trace in traces
    ]
    errors = {}
    for positions, first in _order_positions(traces):
        family = replace(vlm.family, positions=positions, first_position=first)
        own = replace(vlm, family=family)
        error = 0.0
        for prompt, states in zip(prompts, expected, strict=True):
            try:
                found = read_states(own, [prompt])
            except Exception:  # noqa: BLE001 # a model may refuse positions; then they are not its own
                error = float("inf")
                break
            error = max(
                error, *(float(compare_states(found[number], one).max()) for number, one in states.items())
            )
        if error <= choose_tolerance(next(iter(expected[0].values())).dtype):
            return family
        errors[f"{positions} from {first}"] = f"{error:.2g}"
    told = ", ".join(f"{name}: {error}" for name, error in errors.items())
    raise UnderivableError("answering", f"under no positions are states those of generation (errors {told})")


def _order_positions(traces: Sequence[Trace]) -> list[tuple[Positions, int]]:
    """Order what positions may be, those that the model was seen to use in generation first."""
    seen = [trace.positions for trace in traces]
    likely: list[tuple[Positions, int]] = []
    if all(one is not None for one in seen):
        firsts = {_count_from(one) for one in seen if one is not None}
        if len(firsts) == 1 and (first := next(iter(firsts))) is not None:
            likely = [("counted", first)]
        elif None in firsts:
            likely = [("multimodal", 0)]
    return list(dict.fromkeys([*likely, ("counted", 0), ("counted", 1), ("multimodal", 0)]))


def _count_from(positions: Tensor) -> int | None:
    """The first of positions that are counted one by one, the same in each of their sections; None of others."""
    rows = positions.reshape(-1, positions.shape[-1])
    first = int(rows[0, 0])
    counted = torch.arange(first, first + rows.shape[1], device=rows.device)
    return first if bool((rows == counted).all()) else None


def heeds_gaps(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> bool:
    """Whether text behind a gap in its positions is moved, and an image moves the text to where answers go on."""
    shown, alone = (render(vlm, [prompt]) for prompt in prompts)
    located = locate_tokens(vlm, shown)
    if located is None and vlm.family.positions == "multimodal":
        return False
    if located is not None:
        # Answers go on from there: a gap of another length would be another place.
        read_inputs(vlm, shown)
        turned = getattr(vlm.model.base_model, "rope_deltas", None)
        behind = int(located[..., -1].max()) + 1
        if turned is None or int(turned.sum()) + len(shown["input_ids"][0]) != behind:
            return False
    plain = position_ids(alone["attention_mask"], first=vlm.family.first_position)
    apart = plain.clone()
    apart[:, plain.shape[1] // 2 :] += GAP
    try:
        near, far = (read_inputs(vlm, _with(alone, position_ids=one)) for one in (plain, apart))
    except Exception:  # noqa: BLE001 # it takes no positions, so there can be no gap
        return False
    last = max(near)
    return float(compare_states(far[last], near[last]).max()) > choose_tolerance(near[last].dtype)


def _with(inputs: BatchFeature, **more: Tensor) -> BatchFeature:
    return BatchFeature({**inputs, **more})

"""Find how a model scales and bounds the logits of its head, from those of one prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cmrm.models.families import Family
from cmrm.models.forward_arguments import count_positions
from cmrm.models.head import scale_logits
from cmrm.models.hook_handles import hooked
from cmrm.models.modules import find_output_layer, list_numbers
from cmrm.models.prompt_states import choose_tolerance, compare_states
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt

# Relative error within which a quotient of logits is a number of the config: its mantissa may have 8 bits.
NEAR = 1e-2


@torch.inference_mode()
def find_logit_fields(vlm: VisionLanguageModel, prompt: Prompt) -> Family:
    """Find the fields of the config by which the model scales and bounds the logits of its head at a prompt.

    Returns the row with these fields; without them where the logits are the head's own, or are made in another way.
    """
    made, own = _read_logits(vlm, prompt)
    if made.shape != own.shape:
        return vlm.family
    # A bound far above small logits changes them by less than the tolerance, so the nearest is taken, not the first.
    least, nearest = choose_tolerance(made.dtype), dict[str, Any]()
    for fields, numbers in _propose(list_numbers(vlm.model.config), made, own):
        error = float(compare_states(scale_logits(own, **numbers), made))
        if error < least:
            least, nearest = error, fields
    return replace(vlm.family, **nearest)


def _read_logits(vlm: VisionLanguageModel, prompt: Prompt) -> tuple[Tensor, Tensor]:
    """Read the logits at the last token of a prompt, [vocabulary], and those that the head makes for them."""
    heads: list[Tensor] = []

    def note(_module: nn.Module, _args: Any, output: Tensor) -> None:
        heads.append(output)

    inputs = render(vlm, [prompt])
    with hooked([find_output_layer(vlm.model).register_forward_hook(note)]):
        made = vlm.model(**inputs, **count_positions(vlm, inputs), use_cache=False).logits
    return made[0, -1], heads[-1][0, -1]


def _propose(
    numbers: dict[str, float], made: Tensor, own: Tensor
) -> Iterator[tuple[dict[str, Any], dict[str, float | None]]]:
    """Propose fields with their numbers: none, then a factor or divisor that fits, then with each bound."""
    bounds = {path: one for path, one in numbers.items() if one > float(made.abs().max())}
    for bound, limit in [(None, None), *bounds.items()]:
        inner = made.float() if limit is None else torch.atanh(made.float() / limit) * limit
        factor = float(inner @ own.float() / (own.float() @ own.float()))
        scales: list[tuple[dict[str, Any], dict[str, float | None]]] = [
            ({}, {"factor": None, "divisor": None})
        ]
        scales += [
            ({"logit_factor": path}, {"factor": one, "divisor": None})
            for path, one in numbers.items()
            if abs(one - factor) <= NEAR * abs(factor)
        ]
        scales += [
            ({"logit_divisor": path}, {"factor": None, "divisor": one})
            for path, one in numbers.items()
            if abs(one * factor - 1) <= NEAR
        ]
        for fields, values in scales:
            yield fields | ({} if bound is None else {"logit_bound": bound}), values | {"bound": limit}

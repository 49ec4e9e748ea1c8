"""Logits of hidden states as a model's own forward pass makes them, for passes of its backbone alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from cmrm.models.modules import find_number, find_output_layer

if TYPE_CHECKING:
    from cmrm.models.vlm import VisionLanguageModel


def find_head(vlm: VisionLanguageModel) -> Callable[[Tensor], Tensor]:
    """Find what makes logits [..., vocabulary] of the backbone's last hidden states [..., hidden]."""
    head: Callable[[Tensor], Tensor] = find_output_layer(vlm.model)
    factor, divisor, bound = (
        find_number(vlm.model.config, path)
        for path in (vlm.family.logit_factor, vlm.family.logit_divisor, vlm.family.logit_bound)
    )
    if factor is None and divisor is None and bound is None:
        return head
    return lambda hidden: scale_logits(head(hidden), factor=factor, divisor=divisor, bound=bound)


def scale_logits(
    logits: Tensor, *, factor: float | None, divisor: float | None, bound: float | None
) -> Tensor:
    """Scale and bound the output of a head, in its dtype and in this order, as transformers does it."""
    logits = logits if factor is None else logits * factor
    logits = logits if divisor is None else logits / divisor
    return logits if bound is None else (logits / bound).tanh() * bound

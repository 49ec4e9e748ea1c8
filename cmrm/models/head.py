"""Logits of hidden states as a model's own forward pass makes them, for passes of its backbone alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from cmrm.models.modules import find_logit_bound

if TYPE_CHECKING:
    from cmrm.models.vlm import VisionLanguageModel


def find_head(vlm: VisionLanguageModel) -> Callable[[Tensor], Tensor]:
    """Find what makes logits [..., vocabulary] of the backbone's last hidden states [..., hidden]."""
    head: Callable[[Tensor], Tensor] = vlm.model.get_output_embeddings()
    bound = find_logit_bound(vlm.model.config, vlm.family)
    if bound is None:
        return head
    # In the head's dtype and in this order, as transformers has it.
    return lambda hidden: (head(hidden) / bound).tanh() * bound

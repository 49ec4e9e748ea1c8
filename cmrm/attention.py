"""Which implementation computes attention, and whether it is there."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

import torch

from cmrm.errors import UserError
from cmrm.families import Attention

FIELD = "model.attn_implementation"
# What of them is no part of torch, and where it is to be had.
PACKAGES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "flash_attention_2": ("flash_attn", "pip install flash-attn"),
        "flash_attention_3": ("flash_attn_interface", "https://github.com/Dao-AILab/flash-attention"),
    }
)


def need_attention(implementation: Attention) -> None:
    """Raise `UserError` where an implementation's package is missing.

    transformers would load one from the hub instead where it can: code that nobody here has pinned or asked for.
    """
    package, source = PACKAGES.get(implementation, ("torch", ""))
    if find_spec(package) is None:
        raise UserError(
            f"{FIELD}: {implementation!r} needs the package {package}, which is not installed ({source}) and runs on "
            "GPUs alone. Install it, or use sdpa."
        )


def refuse_other_dtypes(implementation: Attention, model: Any) -> None:
    """Raise `UserError` where an implementation does not know the model's dtype, and would fail at its first token."""
    if implementation in PACKAGES and model.dtype not in {torch.float16, torch.bfloat16}:
        raise UserError(
            f"{FIELD}: {implementation!r} knows float16 and bfloat16 alone, and the model is in "
            f"{str(model.dtype).removeprefix('torch.')}. Set model.dtype, or use sdpa."
        )


def explain_attention(implementation: Attention, reason: str) -> UserError | None:
    """The mistake that a failed load was, if it was the model's not knowing this implementation."""
    if "attention" not in reason.lower() or "support" not in reason.lower():
        return None
    return UserError(
        f"{FIELD}: this model cannot use {implementation!r}: {reason} Use one that it can; eager always works."
    )

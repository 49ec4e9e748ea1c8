"""Attention implementations (sdpa, eager, FlashAttention): whether the packages and the model support one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any, TypeVar, cast

import torch

from cmrm.errors import UserError
from cmrm.models.families import Attention

FIELD = "model.attn_implementation"
# Sdpa, or eager for models that have no other.
AUTO = "auto"
Loaded = TypeVar("Loaded")
# Implementations outside torch: their package, and where to get it.
PACKAGES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "flash_attention_2": ("flash_attn", "pip install flash-attn"),
        "flash_attention_3": ("flash_attn_interface", "https://github.com/Dao-AILab/flash-attention"),
    }
)


class UnsupportedAttentionError(UserError):
    """A model does not support an attention implementation."""


def need_attention(implementation: Attention) -> None:
    """Raise `UserError` if an implementation's package is missing.

    transformers would otherwise try to load a kernel from the hub, which is unpinned code.
    """
    package, source = PACKAGES.get(implementation, ("torch", ""))
    if find_spec(package) is None:
        raise UserError(
            f"{FIELD}: {implementation!r} needs the package {package}, which is not installed ({source}) and runs on "
            "GPUs alone. Install it, or use sdpa."
        )


def load_by_attention(implementation: str, load: Callable[[Attention], Loaded]) -> Loaded:
    """Load a model by an implementation; `auto` is sdpa, or eager where the model does not support that."""
    if implementation != AUTO:
        return load(cast("Attention", implementation))
    try:
        return load("sdpa")
    except UnsupportedAttentionError:
        return load("eager")


def refuse_other_dtypes(implementation: Attention, model: Any) -> None:
    """Raise `UserError` if an implementation does not support the model's dtype, and would fail at the first token."""
    if implementation in PACKAGES and model.dtype not in {torch.float16, torch.bfloat16}:
        raise UserError(
            f"{FIELD}: {implementation!r} supports float16 and bfloat16 only, and the model is in "
            f"{str(model.dtype).removeprefix('torch.')}. Set model.dtype, or use sdpa."
        )


def explain_attention(implementation: Attention, reason: str) -> UserError | None:
    """Turn the error of a failed load into a `UserError` if the model does not support this implementation."""
    if "attention" not in reason.lower() or "support" not in reason.lower():
        return None
    return UnsupportedAttentionError(
        f"{FIELD}: this model cannot use {implementation!r}: {reason} Use another one; eager always works."
    )

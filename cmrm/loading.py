"""Load a vision-language model from a resolved folder."""

from __future__ import annotations

import ctypes
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from cmrm.errors import UserError
from cmrm.model import VisionLanguageModel, prepare_model
from cmrm.revision import ModelIdentity

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]

# Names of mallopt(3).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def load_model(
    identity: ModelIdentity,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    attn_implementation: Attention = "sdpa",
) -> VisionLanguageModel:
    """Load weights (safetensors only, no remote code) and processor from a resolved folder, ready to answer.

    Raises `UserError` when transformers cannot read the folder or the device is not there.
    """
    chosen = _choose_device(device)
    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(
            identity.folder,
            dtype=dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        processor = AutoProcessor.from_pretrained(
            identity.folder, trust_remote_code=False, local_files_only=True
        )
        if chosen.type == "cpu":
            _keep_freed_memory()
            _own_weights(model)
        model = model.to(chosen).eval()
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"model.id: {identity.id!r} cannot be loaded: {reason}. Check that the folder is complete."
        ) from error
    return prepare_model(model, processor, where=identity.id)


def _own_weights(model: nn.Module) -> None:
    """Copy the weights into memory of their own: as they are loaded they are the file, and change as it is written."""
    for tensor in {id(one): one for one in (*model.parameters(), *model.buffers())}.values():
        tensor.data = tensor.data.clone()


def _choose_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # Torch says in many ways that there is no such device; an empty tensor asks for it.
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"model.device: there is no {device!r} here ({reason}); use auto, cpu or cuda."
        ) from None


def _keep_freed_memory() -> None:
    """Tell glibc to keep freed buffers for the next operation instead of handing each back to the system.

    Large activations are otherwise paid for in page faults at every operation (docs/decisions.md has the figure).
    Where there is no glibc, nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for parameter, value in ((M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, (1 << 31) - 1)):
        mallopt(parameter, value)

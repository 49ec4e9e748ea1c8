"""Load the weights of a checkpoint from a local folder by the rules that hold for every model: the one loader."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from cmrm.errors import UserError
from cmrm.models.load_lock import LOADING
from cmrm.models.memory import choose_cast, need_memory
from cmrm.models.model_classes import Classes

# What transformers raises for a folder that cannot be loaded.
LOAD_ERRORS = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError)


def load_config(
    folder: Path, classes: Classes, *, attention: str | None, trust_remote_code: bool = False
) -> Any:
    """Load a checkpoint's config with this attention implementation; None leaves the choice to transformers.

    Raises one of `LOAD_ERRORS`.
    """
    config = classes.config.from_pretrained(folder, **trust(trust_remote_code=trust_remote_code))
    # A config can name an attention implementation on the hub, whose code would be downloaded and run.
    config._attn_implementation = attention
    return config


def load_weights(
    folder: Path,
    classes: Classes,
    config: Any,
    *,
    dtype: Any,
    device: torch.device,
    where: str,
    trust_remote_code: bool = False,
    saved: int = 0,
    **placement: Any,
) -> Any:
    """Load a model from a local folder: safetensors only, and no remote code unless it is trusted.

    `dtype` is a torch dtype or its name. `placement` holds transformers' `device_map` and `quantization_config`;
    without them the weights are on the CPU, and the caller moves them to `device`, whose memory is asked first.
    `saved` are the bytes that quantization takes off. `where` is how errors name the checkpoint. Raises `UserError` if
    weights are missing or of other shapes, or memory does not suffice, else one of `LOAD_ERRORS`.
    """
    model, _ = load_telling_unread(
        folder,
        classes,
        config,
        dtype=dtype,
        device=device,
        where=where,
        trust_remote_code=trust_remote_code,
        saved=saved,
        **placement,
    )
    return model


def load_telling_unread(
    folder: Path,
    classes: Classes,
    config: Any,
    *,
    dtype: Any,
    device: torch.device,
    where: str,
    trust_remote_code: bool = False,
    saved: int = 0,
    **placement: Any,
) -> tuple[Any, frozenset[str]]:
    """Load as `load_weights` does: the model, and the names of weights in the files for which it has no place."""
    # Mismatched weights are refused here, by name; transformers only refers to what it has logged.
    model, found = load_with_info(
        folder,
        classes,
        config,
        dtype=dtype,
        device=device,
        where=where,
        trust_remote_code=trust_remote_code,
        saved=saved,
        ignore_mismatched_sizes=True,
        **placement,
    )
    _refuse_mismatched(found["mismatched_keys"], where=where)
    _refuse_missing(found["missing_keys"], where=where)
    return model, frozenset(found["unexpected_keys"])


def load_with_info(
    folder: Path,
    classes: Classes,
    config: Any,
    *,
    dtype: Any,
    device: torch.device,
    where: str,
    trust_remote_code: bool = False,
    saved: int = 0,
    **placement: Any,
) -> tuple[Any, dict[str, Any]]:
    """Load as `load_weights` does, with transformers' loading info: missing, unexpected and mismatched keys.

    Raises `UserError` if memory does not suffice, else one of `LOAD_ERRORS`.
    """
    need_memory(
        folder,
        dtype=read_dtype(dtype, config),
        device=device,
        spread=isinstance(placement.get("device_map"), str),
        saved=saved,
        where=where,
        cast=choose_cast(config, device),
    )
    with LOADING:
        loaded: tuple[Any, dict[str, Any]] = classes.model.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            attn_implementation=config._attn_implementation,
            use_safetensors=True,
            output_loading_info=True,
            **trust(trust_remote_code=trust_remote_code),
            **placement,
        )
    return loaded


def trust(*, trust_remote_code: bool = False) -> dict[str, Any]:
    """Make the arguments that keep any `from_pretrained` off the network, and from running code without trust."""
    return {"trust_remote_code": trust_remote_code, "local_files_only": True}


def read_dtype(dtype: Any, config: Any) -> torch.dtype | None:
    """Read what dtype the weights will have, None for that in which they were saved."""
    if isinstance(dtype, torch.dtype):
        return dtype
    found = getattr(config, "dtype", None) if dtype == "auto" else getattr(torch, dtype)
    return found if isinstance(found, torch.dtype) else None


def _refuse_missing(missing: Collection[str], *, where: str) -> None:
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"{where} holds no weights for {min(missing)}{more}, which transformers would initialize at "
            "random. Complete the folder, or give the model from which it was made."
        )


def _refuse_mismatched(mismatched: Collection[tuple[str, Any, Any]], *, where: str) -> None:
    if mismatched:
        name, there, expected = min(mismatched)
        raise UserError(
            f"{where} has {name} of shape {list(there)}, and by its config.json it is {list(expected)}. Take the "
            "config.json and the weights of one model and one revision."
        )

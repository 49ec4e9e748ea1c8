"""Load a vision-language model from a resolved folder."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoProcessor

from cmrm.adapters import AdapterIdentity, lay_over
from cmrm.attention import explain_attention, need_attention, refuse_other_dtypes
from cmrm.errors import UserError
from cmrm.families import Attention, Family
from cmrm.folder_check import check_folder
from cmrm.memory import is_out_of_memory
from cmrm.model import VisionLanguageModel, prepare_model
from cmrm.model_classes import Classes, find_classes
from cmrm.placement import (
    DeviceMap,
    choose_device,
    keep_freed_memory,
    need_accelerate,
    own_weights,
    refuse_disk,
)
from cmrm.quantization import Quantization, compute_in_own_dtype, make_config
from cmrm.remote_code import describe_trust
from cmrm.revision import ModelIdentity

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

LOAD_ERRORS = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError)
# What some processors ask for while they are loaded.
PROCESSORS_NEED = ("torchvision", "num2words")
# What code that a model brings may fail with besides.
CODE_ERRORS = (AttributeError, TypeError, NameError, SyntaxError, LookupError, ArithmeticError)


def load_model(
    identity: ModelIdentity,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    attn_implementation: Attention = "sdpa",
    device_map: DeviceMap | None = None,
    quantization: Quantization | None = None,
    adapter: AdapterIdentity | None = None,
    family: Family | None = None,
) -> VisionLanguageModel:
    """Load weights (safetensors only) and processor from a resolved folder, ready to answer.

    Code that the model brings runs only where its identity says so. With a `device_map` the weights are spread over
    this machine's devices, else they go to `device`. A `family` goes before the table's.
    Raises `UserError` when transformers cannot read the folder, or something that was asked for is not there.
    """
    need_attention(attn_implementation)
    if device_map is not None:
        need_accelerate()
    chosen = choose_device(device)
    expected = LOAD_ERRORS + CODE_ERRORS if identity.trust_remote_code else LOAD_ERRORS
    try:
        classes = find_classes(identity)
        config = classes.config.from_pretrained(identity.folder, **_trust(identity))
        # A config may name an implementation of its own, even one on the hub, and would get it instead.
        config._attn_implementation = attn_implementation
        model, found = classes.model.from_pretrained(
            identity.folder,
            config=config,
            dtype=dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            output_loading_info=True,
            **_trust(identity),
            **_place(config, classes, chosen, device_map, quantization),
        )
        _refuse_missing(found["missing_keys"], where=identity.id)
        processor = AutoProcessor.from_pretrained(identity.folder, **_trust(identity))
        refuse_disk(model, where=identity.id)
        if device_map is None and quantization is None:
            model = model.to(chosen)
    except UserError:
        raise
    except (*expected, MemoryError) as error:
        raise _explain(error, identity, attn_implementation) from error
    refuse_other_dtypes(attn_implementation, model)
    if quantization is not None:
        compute_in_own_dtype(model)
    if adapter is not None:
        lay_over(model, adapter)
    if chosen.type == "cpu":
        keep_freed_memory()
    own_weights(model)
    vlm = prepare_model(model.eval(), processor, where=identity.id, family=family)
    check_folder(vlm, where=identity.id)
    return vlm


def _trust(identity: ModelIdentity) -> dict[str, Any]:
    return {"trust_remote_code": identity.trust_remote_code, "local_files_only": True}


def _place(
    config: Any,
    classes: Classes,
    device: torch.device,
    device_map: DeviceMap | None,
    quantization: Quantization | None,
) -> dict[str, Any]:
    """Where weights go while they are loaded; without a word of this they are loaded first and moved then."""
    if quantization is None:
        return {} if device_map is None else {"device_map": device_map}
    # Quantized weights are made on the device where they stay.
    return {
        "device_map": device_map or {"": device},
        "quantization_config": make_config(quantization, classes.outline(config)),
    }


def _refuse_missing(missing: Collection[str], *, where: str) -> None:
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"model.id: {where!r} holds no weights for {min(missing)}{more}, which transformers would make up at "
            "random. Complete the folder, or give the model from which it was made."
        )


def _explain(error: Exception, identity: ModelIdentity, implementation: Attention) -> UserError:
    lines = str(error).strip().splitlines()
    reason = lines[0].strip() if lines else type(error).__name__
    if is_out_of_memory(error):
        return UserError(
            f"model.id: {identity.id!r} does not fit into memory ({reason}). Give a smaller model.dtype (bfloat16, "
            "float16), model.quantization, model.device_map or another model.device, or free some memory."
        )
    if "trust_remote_code" in str(error) and not identity.trust_remote_code:
        return UserError(describe_trust(identity.id))
    if missing := next((package for package in PROCESSORS_NEED if package in reason.lower()), None):
        return UserError(
            f"model.id: the processor of {identity.id!r} needs the package {missing}, which is not installed: "
            "pip install 'cmrm[vision]'"
        )
    own = " and that its own code runs here" if identity.trust_remote_code else ""
    # A reason that names a package to install (weights in AWQ, GPTQ, …) is its own fix.
    fix = "" if "install" in reason else f" Check that the folder is complete{own}."
    return explain_attention(implementation, reason) or UserError(
        f"model.id: {identity.id!r} cannot be loaded: {reason.rstrip('.')}.{fix}"
    )

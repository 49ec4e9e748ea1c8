"""Load a vision-language model from a resolved folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from transformers import AutoProcessor

from cmrm.errors import UserError
from cmrm.models.adapters import AdapterIdentity, apply_adapter, note_adapter
from cmrm.models.attention import explain_attention, need_attention, refuse_other_dtypes
from cmrm.models.devices import (
    DeviceMap,
    choose_device,
    keep_freed_memory,
    need_accelerate,
    own_weights,
    refuse_disk,
)
from cmrm.models.families import Attention, Family
from cmrm.models.folder_check import check_folder
from cmrm.models.folder_examination import examine_folder
from cmrm.models.folder_note import FolderNote
from cmrm.models.gguf_weights import GgufFile, load_backbone
from cmrm.models.image_backend import AUTO, pin_image_backend, use_image_backend
from cmrm.models.model_classes import Classes, find_classes
from cmrm.models.oom import is_out_of_memory
from cmrm.models.quantization import Quantization, compute_in_own_dtype, count_saved_bytes, make_config
from cmrm.models.remote_code import describe_trust
from cmrm.models.revision import ModelIdentity
from cmrm.models.tokenizer_file import name_broken_tokenizer
from cmrm.models.vlm import VisionLanguageModel, prepare_model
from cmrm.models.weight_files import explain_broken_weights
from cmrm.models.weights import LOAD_ERRORS, load_config, load_telling_unread, read_dtype, trust

log = logging.getLogger("cmrm.models")

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

# Wraps a loaded model and its processor, as `prepare_model` does.
Prepare = Callable[..., VisionLanguageModel]

# Packages that some processors import while they are loaded.
PROCESSORS_NEED = ("torchvision", "num2words")
# Further errors of a model's own code (trust_remote_code).
CODE_ERRORS = (AttributeError, TypeError, NameError, SyntaxError, LookupError, ArithmeticError)


def load_model(
    identity: ModelIdentity,
    *,
    dtype: Dtype = "auto",
    device: str = "auto",
    attn_implementation: Attention = "sdpa",
    device_map: DeviceMap | None = None,
    quantization: Quantization | None = None,
    backbone_weights: GgufFile | None = None,
    adapter: AdapterIdentity | None = None,
    family: Family | None = None,
    image_backend: str = AUTO,
    kept: Sequence[str] = (),
    prepare: Prepare = prepare_model,
) -> VisionLanguageModel:
    """Load weights (safetensors only) and processor from a resolved folder, ready for decoding.

    The model's own code runs only if its identity allows it. With a `device_map` the weights are spread over this
    machine's devices, else they go to `device`. A given `family` replaces the table's. `image_backend` is as in
    `pin_image_backend`. `backbone_weights` replace those of the language model. `kept` are special tokens that answers
    keep. `prepare` wraps what was loaded.
    Raises `UserError` if transformers cannot load the folder, or a requested device, package or backend is missing.
    """
    need_attention(attn_implementation)
    if device_map is not None:
        need_accelerate()
    chosen = choose_device(device)
    backend = pin_image_backend(identity.folder, asked=image_backend, where=identity.id)
    expected = LOAD_ERRORS + CODE_ERRORS if identity.trust_remote_code else LOAD_ERRORS
    try:
        classes = find_classes(identity)
        config = load_config(
            identity.folder,
            classes,
            attention=attn_implementation,
            trust_remote_code=identity.trust_remote_code,
        )
        model, unread = load_telling_unread(
            identity.folder,
            classes,
            config,
            dtype=dtype,
            device=chosen,
            where=f"model.id: {identity.id!r}",
            trust_remote_code=identity.trust_remote_code,
            **place_weights(
                config, classes, chosen, device_map=device_map, quantization=quantization, dtype=dtype
            ),
        )
        with name_broken_tokenizer(identity.folder):
            processor = AutoProcessor.from_pretrained(
                identity.folder, **trust(trust_remote_code=identity.trust_remote_code)
            )
        use_image_backend(
            processor,
            identity.folder,
            backend=backend,
            where=identity.id,
            trust_remote_code=identity.trust_remote_code,
        )
        refuse_disk(model, where=identity.id)
        if device_map is None and quantization is None:
            model = model.to(chosen)
    except UserError:
        raise
    except (*expected, MemoryError) as error:
        raise explain_failure(error, identity, attn_implementation) from error
    refuse_other_dtypes(attn_implementation, model)
    if quantization is not None:
        compute_in_own_dtype(model)
    laid = _lay_over(model, processor, identity, backbone_weights, adapter)
    if chosen.type == "cpu":
        keep_freed_memory()
    own_weights(model)
    vlm = prepare(model.eval(), processor, where=identity.id, family=family, kept=kept)
    check_folder(vlm, where=identity.id)
    return tell(vlm, [*examine_folder(vlm, identity.folder, unread=unread), *laid], identity)


def tell(
    vlm: VisionLanguageModel, notes: Iterable[FolderNote], identity: ModelIdentity
) -> VisionLanguageModel:
    """Add what a model's folder has to tell to its notes, and log them, warnings as such."""
    vlm = replace(vlm, notes=(*vlm.notes, *notes))
    for note in vlm.notes:
        level = logging.WARNING if note.warning else logging.DEBUG
        log.log(level, "%s.id: %r: %s", identity.field, identity.id, note.text)
    return vlm


def _lay_over(
    model: Any,
    processor: Any,
    identity: ModelIdentity,
    backbone_weights: GgufFile | None,
    adapter: AdapterIdentity | None,
) -> list[FolderNote]:
    """Lay other weights of the backbone and an adapter over a loaded model, in place; what they have to tell."""
    notes = []
    if backbone_weights is not None:
        # What is copied into must not be the file of the folder's own weights.
        own_weights(model)
        notes.append(load_backbone(model, processor.tokenizer, backbone_weights))
    if adapter is not None:
        apply_adapter(model, adapter)
        notes += note_adapter(model, adapter, identity)
    return notes


def place_weights(
    config: Any,
    classes: Classes,
    device: torch.device,
    *,
    device_map: DeviceMap | None,
    quantization: Quantization | None,
    dtype: Dtype,
) -> dict[str, Any]:
    """Make the arguments that place weights while loading; without any they are loaded on the CPU and moved then."""
    if quantization is None:
        return {} if device_map is None else {"device_map": device_map}
    outline = classes.outline(config)
    # Weights are quantized on the device where they stay.
    return {
        "device_map": device_map or {"": device},
        "quantization_config": make_config(quantization, outline),
        "saved": count_saved_bytes(
            quantization, outline, itemsize=(read_dtype(dtype, config) or torch.float32).itemsize
        ),
    }


def explain_failure(error: Exception, identity: ModelIdentity, implementation: Attention) -> UserError:
    """Make the error of a checkpoint that cannot be loaded: what failed, and what to try."""
    lines = str(error).strip().splitlines()
    reason = lines[0].strip() if lines else type(error).__name__
    if is_out_of_memory(error):
        return UserError(
            f"{identity.field}.id: out of memory while loading {identity.id!r} ({reason}). Give a smaller model.dtype "
            "(bfloat16, float16), model.quantization, model.device_map or another model.device, or free some memory."
        )
    if "trust_remote_code" in str(error) and not identity.trust_remote_code:
        return UserError(describe_trust(identity.id))
    if missing := next((package for package in PROCESSORS_NEED if package in reason.lower()), None):
        return UserError(
            f"{identity.field}.id: the processor of {identity.id!r} needs the package {missing}, which is not "
            "installed: pip install 'cmrm[vision]'"
        )
    if broken := explain_broken_weights(identity.folder):
        return UserError(f"{identity.field}.id: {identity.id!r} cannot be loaded: {broken}.")
    own = " and that its own code runs here" if identity.trust_remote_code else ""
    # A reason that names a package to install (weights in AWQ, GPTQ, …) already says the fix.
    fix = "" if "install" in reason else f" Check that the folder is complete{own}."
    return explain_attention(implementation, reason) or UserError(
        f"{identity.field}.id: {identity.id!r} cannot be loaded: {reason.rstrip('.')}.{fix}"
    )

"""Sentences for the report about how the models were loaded: revision, dtype, adapter, quantization, system prompt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cmrm.models.system_prompts import SYSTEM_LINES


def describe_model(model: Mapping[str, Any]) -> Iterator[str]:
    """Describe a model from its record (`ModelUse.describe`): revision first, then non-default settings."""
    revision = model["revision"].partition("+")[0]
    # Records of an earlier release name no image backend.
    images = f", images by {backend}" if (backend := model.get("image_backend")) else ""
    yield f"Model {model['name']}: {model['id']}, revision {revision}, {model['dtype']}{images}."
    if adapter := model.get("adapter"):
        yield f"Its LoRA adapter: {adapter['id']}, revision {adapter['revision']}."
    if weights := model.get("backbone_weights"):
        yield f"The weights of its language model: {weights['gguf']} (GGUF, dequantized), {weights['revision']}."
    if quantization := model.get("quantization"):
        yield f"The weights of its decoder were quantized to {_name_bits(quantization)} by bitsandbytes."
    # What `auto` came to is said with the derived row.
    if (attention := model.get("attn_implementation")) and attention != "auto":
        yield f"Its attention was computed by {attention}."
    if (family := model.get("family")) and "derived" in family:
        yield f"No table lists its type; its row was derived with transformers {family['derived']['transformers']}."
        yield from (f"As found when it was loaded, {row}." for row in model.get("derived_rows", ()))
    elif family:
        row = ", ".join(f"{name} {value!r}" for name, value in family.items())
        yield f"Its row of model families came from the spec or a plug-in package: {row}."
    if (system := model.get("system")) is not None:
        names = [name for name, line in SYSTEM_LINES.items() if line == system]
        called = f" ({names[0]})" if names else ""
        yield f"Each of its prompts began with the system line{called}: {system}"
    if backbone := model.get("backbone"):
        own = "its own chat template" if backbone["template"] == "own" else f"the prompts of {model['of']}"
        yield f"It is text-only, and was asked by {own}."
    yield from warn_of_code([model])


def warn_of_code(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """Make one warning for each model that was loaded with trust_remote_code."""
    return [
        f"The model {model['name']} ran its own code: the Python files beside its weights, not those of transformers, "
        "say how it computes (trust_remote_code)."
        for model in models
        if model.get("trust_remote_code")
    ]


def _name_bits(quantization: Mapping[str, Any]) -> str:
    if quantization["bits"] == 8:
        return "8 bits"
    doubly = ", its scales too," if quantization["double"] else ""
    return f"4 bits ({quantization['type']}){doubly}"

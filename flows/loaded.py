"""How a run's models were loaded and prompted, in sentences for its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cmrm.system_lines import SYSTEM_LINES


def describe_model(model: Mapping[str, Any]) -> Iterator[str]:
    """What a model was, from its record (`ModelUse.describe`): its revision first, then whatever was not usual."""
    revision = model["revision"].partition("+")[0]
    yield f"Model {model['name']}: {model['id']}, revision {revision}, {model['dtype']}."
    if adapter := model.get("adapter"):
        yield f"Its LoRA adapter: {adapter['id']}, revision {adapter['revision']}."
    if quantization := model.get("quantization"):
        yield f"The weights of its decoder were quantized to {_name_bits(quantization)} by bitsandbytes."
    if attention := model.get("attn_implementation"):
        yield f"Its attention was computed by {attention}."
    if family := model.get("family"):
        row = ", ".join(f"{name} {value!r}" for name, value in family.items())
        yield f"Where its parts are was said in the spec or by a package: {row}."
    if (system := model.get("system")) is not None:
        names = [name for name, line in SYSTEM_LINES.items() if line == system]
        called = f" ({names[0]})" if names else ""
        yield f"Each of its prompts began with the system line{called}: {system}"
    yield from warn_of_code([model])


def warn_of_code(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence for each model that ran code of its own, for those who read nothing else about it."""
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

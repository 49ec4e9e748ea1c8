"""Quantization by bitsandbytes (8 bit, 4 bit), of the decoder's linear layers only.

torch and transformers are imported with the first model, since every spec imports this.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from cmrm.errors import UserError
from cmrm.models.optional_packages import need_package

if TYPE_CHECKING:
    from torch import nn

FIELD = "model.quantization"
# Weights that have one scale, under 4 bits.
SCALED_TOGETHER = 64
NumberFormat = Literal["nf4", "fp4"]


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How weights are stored: 8 bits (LLM.int8), or 4 bits as `nf4` or `fp4`, with quantized scales if `double`."""

    bits: Literal[4, 8]
    type: NumberFormat | None = None
    double: bool = False

    def content(self) -> dict[str, Any]:
        """Return the settings that determine states and answers, for cache keys."""
        return {"bits": 8} if self.bits == 8 else asdict(self)

    def __str__(self) -> str:
        if self.bits == 8:
            return "8 bits (bitsandbytes)"
        return f"4 bits, {self.type}{', double quantization' if self.double else ''} (bitsandbytes)"


def make_config(quantization: Quantization, outline: Any) -> Any:
    """Make the config for transformers; `outline` is the model without weights.

    Raises `UserError` if a package is missing or the model's weights are quantized already.
    """
    for package in ("accelerate", "bitsandbytes"):
        need_package(package, extra="quantization", field=FIELD)
    if getattr(outline.config, "quantization_config", None) is not None:
        raise UserError(
            f"{FIELD}: the weights of this model are quantized already. Leave {FIELD} out, or give the model that they "
            "were made from."
        )
    from transformers import BitsAndBytesConfig

    # It warns for each matrix that it multiplies in float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    spared = list_outside(outline, outline.get_decoder())
    if quantization.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=spared)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.type,
        bnb_4bit_use_double_quant=quantization.double,
        llm_int8_skip_modules=spared,
    )


def count_saved_bytes(quantization: Quantization, outline: Any, *, itemsize: int) -> int:
    """Count the bytes by which quantized weights are smaller than those of `itemsize` bytes each.

    `outline` is the model without weights.
    """
    from torch import nn

    # Under 4 bits each block has a scale: a number of 4 bytes, or of one.
    scale = (1 if quantization.double else 4) / SCALED_TOGETHER
    each = 1.0 if quantization.bits == 8 else 0.5 + scale
    layers = (module for module in outline.get_decoder().modules() if isinstance(module, nn.Linear))
    return int(sum(layer.weight.numel() * (itemsize - each) for layer in layers))


def list_outside(model: nn.Module, decoder: nn.Module) -> list[str]:
    """List the modules outside the decoder, by their topmost names: vision tower, projector, head."""
    return list(_list_outside(model, decoder, ""))


def _list_outside(module: nn.Module, decoder: nn.Module, prefix: str) -> Iterator[str]:
    for name, child in module.named_children():
        if child is decoder:
            continue
        if any(part is decoder for part in child.modules()):
            yield from _list_outside(child, decoder, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def compute_in_own_dtype(model: Any) -> None:
    """Set the compute dtype of 4-bit layers to that of the rest of the model, which is known after loading."""
    for module in model.modules():
        if hasattr(module, "compute_dtype") and hasattr(module, "compute_type_is_set"):
            module.compute_dtype = model.dtype
            module.compute_type_is_set = True

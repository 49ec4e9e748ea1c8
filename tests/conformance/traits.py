"""What a family's tiny model shares of its prompts, which kinds of input it takes, and how it can be exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

# Their packages need not be there to ask what a format can hold.
PACKAGED = ("cmrm.export.formats.lora", "cmrm.export.formats.text_graph")


def find_traits(vlm: Any) -> dict[str, Any]:
    """The kinds of `inputs`, what prompts share (`text`, `image`), and by format why an export is refused, or None.

    `bias_adds`: whether the last block gives what its `mlp.down_proj` does, as `add_bias` finds.
    """
    from cmrm.prefix.sharing import explain_unshared

    shared = [
        word for images, word in enumerate(("text", "image")) if not explain_unshared(vlm, images=images)
    ]
    return {
        "inputs": ["image", *vlm.family.media],
        "shared": shared,
        "exports": ask_formats(vlm),
        "bias_adds": add_bias(vlm),
    }


def ask_formats(vlm: Any) -> dict[str, str | None]:
    """By export format, why it refuses a Δ at the last block of the model's folder; None where it does not."""
    from cmrm.errors import UserError
    from cmrm.export import FORMATS, ConstantShift, ExportRequest, Origin
    from cmrm.models.revision import resolve_model

    folder = Path(vlm.model.name_or_path)
    last = len(vlm.blocks) - 1
    shift = ConstantShift(
        subtracted=torch.ones(1, vlm.hidden_size), alpha=1.0, blocks=(last,), scope="every_position"
    )
    try:
        request = ExportRequest(
            model=resolve_model(str(folder)),
            config=json.loads((folder / "config.json").read_text(encoding="utf-8")),
            shift=shift,
            origin=Origin(arm="CMRM"),
            dtype="float32",
            blocks=len(vlm.blocks),
        )
    except UserError as error:
        return dict.fromkeys(sorted(FORMATS.own), str(error))
    refused: dict[str, str | None] = {}
    for kind in sorted(FORMATS.own):
        chosen = FORMATS.make(kind)
        try:
            with patch(f"{PACKAGED[0]}.need_package"), patch(f"{PACKAGED[1]}.need_package"):
                chosen.check(request)
        except UserError as error:
            refused[kind] = str(error)
        else:
            refused[kind] = None
    return refused


def add_bias(vlm: Any) -> bool | None:
    """Whether a bias at `mlp.down_proj` of the last block moves its output by just that; None where there is none."""
    from cmrm.models.vlm import render
    from cmrm.prompts.conditions import Prompt

    block = vlm.blocks[-1]
    projection = dict(block.named_modules()).get("mlp.down_proj")
    if not isinstance(projection, nn.Linear) or vlm.family.streams is not None:
        return None
    bias = torch.randn(vlm.hidden_size, generator=torch.Generator().manual_seed(0))
    outputs: list[torch.Tensor] = []
    keep = block.register_forward_hook(
        lambda _block, _args, made: outputs.append(made[0] if isinstance(made, tuple) else made)
    )
    inputs = render(vlm, [Prompt(text="what is it?")])
    with torch.inference_mode():
        vlm.model(**inputs)
        moved = projection.register_forward_hook(lambda _layer, _args, made: made + bias)
        vlm.model(**inputs)
    keep.remove()
    moved.remove()
    plain, biased = outputs
    return bool(torch.allclose(biased - plain, bias.expand_as(plain), atol=1e-3))

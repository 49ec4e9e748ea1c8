"""Format `peft`: a LoRA of rank 1 that adds nothing but its bias, for who runs the model with transformers and peft."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from safetensors.torch import save_file
from torch import nn

from cmrm.errors import UserError
from cmrm.export.backbone import RESCALING
from cmrm.export.format import ExportFormat, Written
from cmrm.export.proof import compare_with_hooks
from cmrm.export.reference import Reference
from cmrm.export.request import ExportRequest
from cmrm.models.adapters import WEIGHTS, AdapterIdentity
from cmrm.models.families import Family
from cmrm.models.loading import load_model
from cmrm.models.model_classes import find_classes
from cmrm.models.modules import find_blocks
from cmrm.models.optional_packages import need_package
from cmrm.models.weights import LOAD_ERRORS, load_config
from cmrm.steering.settings import Scope
from cmrm.untrusted.printable import first_line

if TYPE_CHECKING:
    from cmrm.models.loading import Dtype

PROJECTION = "mlp.down_proj"
INSTEAD = "use --to gguf or easysteer, or serve it by cmrm itself"


@dataclass(frozen=True, kw_only=True)
class LoraFormat(ExportFormat):
    """An adapter whose matrices are zero and whose bias is −αΔ, at `mlp.down_proj` of each steered block.

    It acts at every position, image tokens too. transformers has a bias there for Llama alone; peft brings one along.
    """

    kind: ClassVar[str] = "peft"
    acts_at: ClassVar[Scope] = "every_position"

    def check(self, request: ExportRequest) -> None:
        need_package("peft", extra="adapters", field="--to peft")
        # Where the blocks of other types are, their loaded model tells.
        if request.row is not None:
            _find_projections(request, request.row)

    def write(self, request: ExportRequest, folder: Path) -> Written:
        from peft import LoraConfig

        assert request.row is not None  # it was loaded
        found = _find_projections(request, request.row)
        tensors = {}
        for block, added in zip(request.shift.blocks, request.shift.added, strict=True):
            module = found[block]
            stem = f"base_model.model.{module.name}.lora"
            tensors[f"{stem}_A.weight"] = torch.zeros(1, module.inputs)
            tensors[f"{stem}_B.weight"] = torch.zeros(len(added), 1)
            tensors[f"{stem}_B.bias"] = added.float().contiguous()
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        names = [found[block].name for block in request.shift.blocks]
        LoraConfig(
            r=1,
            lora_alpha=1,
            lora_bias=True,
            # Matched with whole names, so that no vision tower is changed.
            target_modules="|".join(map(re.escape, names)),
            base_model_name_or_path=request.model.own_name,
            revision=None,
            inference_mode=True,
        ).save_pretrained(str(folder))
        return Written(
            notes=(
                f"The biases hold −αΔ with α = {request.shift.alpha:g} folded in, in float32; the matrices are zero.",
                "It acts at every position, image tokens too.",
                "For transformers with peft alone: vLLM refuses an adapter with lora_bias, and peft cannot merge one "
                "into layers without a bias. For servers use --to checkpoint, gguf or easysteer.",
            ),
            serving=_explain(request),
            library="peft",
            tags=("activation-steering", "lora"),
        )

    def prove(self, request: ExportRequest, folder: Path, reference: Reference) -> tuple[str, ...]:
        adapter = AdapterIdentity(id=str(folder), revision="", folder=folder)
        dtype = str(reference.dtype).removeprefix("torch.")
        with warnings.catch_warnings():
            # That it cannot be merged, which the notes say.
            warnings.filterwarnings("ignore", message=".*lora_bias")
            vlm = load_model(
                request.model,
                dtype=cast("Dtype", dtype),
                device=request.device,
                adapter=adapter,
                attn_implementation=reference.attention,
                family=request.family,
            )
        return compare_with_hooks(vlm, request, reference)


@dataclass(frozen=True, kw_only=True)
class _Projection:
    """A linear layer: its name in the whole model, and the width of its input."""

    name: str
    inputs: int


def _find_projections(request: ExportRequest, row: Family) -> dict[int, _Projection]:
    """Find the last projection of each steered block; raises `UserError` for a backbone that changes its output."""
    where, blocks = repr(request.model.id), request.shift.blocks
    classes = find_classes(request.model)
    try:
        config = load_config(request.model.folder, classes, attention=None)
        model = classes.outline(config)
    except LOAD_ERRORS as error:
        raise UserError(f"model.id: the config of {where} cannot be read ({first_line(error)}).") from error
    kind = str(config.get_text_config().model_type)
    if kind in RESCALING:
        raise _refuse(where, kind, RESCALING[kind])
    found = find_blocks(model.get_decoder(), row.blocks, where=where)
    names = {id(module): name for name, module in model.named_modules()}
    projections = {}
    for block in blocks:
        children = dict(found[block].named_modules())
        last = children.get(PROJECTION)
        if not isinstance(last, nn.Linear):
            raise _refuse(where, kind, f"its block {block} has no {PROJECTION}")
        projections[block] = _Projection(name=names[id(last)], inputs=last.in_features)
    return projections


def _refuse(where: str, kind: str, reason: str) -> UserError:
    return UserError(
        f"--to peft: the text backbone of {where} ({kind}) cannot take the shift as a bias of {PROJECTION}: {reason}; "
        f"{INSTEAD}."
    )


def _explain(request: ExportRequest) -> str:
    return f"""\
```python
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained({request.model.own_name!r}, dtype="auto")
model = PeftModel.from_pretrained(model, "FOLDER")
processor = AutoProcessor.from_pretrained({request.model.own_name!r})
```

`model.disable_adapter()` is a context in which it answers unsteered.
"""

"""Format `checkpoint`: an ordinary transformers folder with the shift as a bias on `mlp.down_proj`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from cmrm.errors import UserError
from cmrm.export.backbone import INSTEAD, BiasPlan, plan_bias
from cmrm.export.carried_files import CONFIG, carry_files, list_carried
from cmrm.export.format import ExportFormat, Written
from cmrm.export.loading import load_again
from cmrm.export.proof import compare_with_hooks
from cmrm.export.reference import Reference
from cmrm.export.request import ExportRequest
from cmrm.export.weight_files import (
    DTYPES,
    INDEX,
    SINGLE,
    WeightFile,
    copy_weights,
    list_weight_files,
    read_header,
    write_index,
)
from cmrm.models.model_classes import find_classes
from cmrm.models.weights import LOAD_ERRORS, load_config
from cmrm.steering.settings import Scope
from cmrm.untrusted.printable import first_line

# A decoder block's last projection; vision towers name theirs otherwise, or lie elsewhere.
_DOWN = re.compile(r"^(?P<stem>(?:.*\.)?(?P<list>[^.]+))\.(?P<block>\d+)\.mlp\.down_proj\.weight$")
FIELD = "--to checkpoint"


@dataclass(frozen=True, kw_only=True)
class CheckpointFormat(ExportFormat):
    """A checkpoint folder that transformers, and whoever reads Llama's `mlp_bias`, loads as any other.

    The bias acts at every position, image tokens too. Weights are copied shard by shard, in the dtype to be served.
    """

    kind: ClassVar[str] = "checkpoint"
    acts_at: ClassVar[Scope] = "every_position"

    def check(self, request: ExportRequest) -> None:
        if "quantization_config" in request.config:
            raise UserError(
                f"{FIELD}: the weights of {request.model.id!r} are quantized, and quantized layers have biases "
                "of their own form. Export the model that they were made from, and quantize the export."
            )
        _plan(request)
        files = list_weight_files(request.model.folder, where=repr(request.model.id))
        # Where the blocks of other types are, their loaded model tells.
        if request.row is not None:
            _find_blocks(files, request)
        list_carried(request.model.folder, taken={*files, INDEX, CONFIG}, field=FIELD)

    def write(self, request: ExportRequest, folder: Path) -> Written:
        source, where = request.model.folder, repr(request.model.id)
        plan, files = _plan(request), list_weight_files(request.model.folder, where=where)
        weights = _find_blocks(files, request)
        first = next(iter(weights.values()))
        stored = DTYPES[files[first.file].tensors[first.name]["dtype"]]
        dtype = stored if request.dtype == "auto" else getattr(torch, request.dtype)
        for name, biases in _make_biases(request, plan, files, weights, dtype).items():
            copy_weights(files[name], folder / name, changed=biases, dtype=None if dtype is stored else dtype)
        if SINGLE not in files:
            written = {name: read_header(folder / name, where=where) for name in files}
            write_index(source, folder, written, where=where)
        carry_files(source, folder, taken={*files, INDEX, CONFIG}, field=FIELD)
        config: dict[str, Any] = {**request.config, "text_config": dict(plan.text_config)}
        # Else it is served as the source is, whose config may name another dtype than its files have.
        if request.dtype != "auto":
            _name_dtype(config, request.dtype)
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        return Written(
            notes=tuple(_note(request, plan, dtype)),
            serving=SERVING,
            library="transformers",
            tags=("activation-steering",),
        )

    def prove(self, request: ExportRequest, folder: Path, reference: Reference) -> tuple[str, ...]:
        vlm = load_again(folder, request, dtype=reference.dtype, attention=reference.attention)
        return compare_with_hooks(vlm, request, reference)


@dataclass(frozen=True, kw_only=True)
class _Weight:
    """A block's `down_proj.weight`: the tensor's name, the file it is in, and what its name begins with."""

    name: str
    file: str
    stem: str


def _plan(request: ExportRequest) -> BiasPlan:
    try:
        config = load_config(request.model.folder, find_classes(request.model), attention=None)
    except LOAD_ERRORS as error:
        raise UserError(
            f"model.id: the config of {request.model.id!r} cannot be read ({first_line(error)})."
        ) from error
    return plan_bias(request.text_config, config.get_text_config(), where=repr(request.model.id))


def _find_blocks(files: Mapping[str, WeightFile], request: ExportRequest) -> dict[int, _Weight]:
    """Find each block's `down_proj.weight`; raises `UserError` unless all blocks have one of the state's width."""
    stems: dict[str, dict[int, _Weight]] = {}
    blocks_of = None if request.row is None else request.row.blocks.rpartition(".")[2]
    for file, one in files.items():
        for name in one.tensors:
            if (found := _DOWN.match(name)) and blocks_of in {found["list"], None}:
                weight = _Weight(name=name, file=file, stem=found["stem"])
                stems.setdefault(found["stem"], {})[int(found["block"])] = weight
    whole = [
        blocks
        for stem, blocks in stems.items()
        if set(blocks) == set(range(request.blocks)) and "vision" not in stem
    ]
    width = request.shift.subtracted.shape[1]
    if len(whole) != 1 or any(
        files[one.file].tensors[one.name]["shape"][0] != width
        or files[one.file].tensors[one.name]["dtype"] not in DTYPES
        for one in whole[0].values()
    ):
        raise UserError(
            f"{FIELD}: the files of {request.model.id!r} do not hold one float matrix mlp.down_proj of width "
            f"{width} for each of {request.blocks} blocks (found: {', '.join(sorted(stems)) or 'none'}); {INSTEAD}."
        )
    return whole[0]


def _make_biases(
    request: ExportRequest,
    plan: BiasPlan,
    files: Mapping[str, WeightFile],
    weights: Mapping[int, _Weight],
    dtype: torch.dtype,
) -> dict[str, dict[str, Tensor]]:
    """Make the biases of each file, by tensor: the shift at its blocks, and zeros at all other places."""
    added = dict(zip(request.shift.blocks, request.shift.added, strict=True))
    made: dict[str, dict[str, Tensor]] = {name: {} for name in files}
    for block, weight in weights.items():
        stem = f"{weight.stem}.{block}"
        width, inner = files[weight.file].tensors[weight.name]["shape"]
        bias, name = added.get(block, torch.zeros(width)), f"{stem}.mlp.down_proj.bias"
        # An export can be exported again.
        known = next((file for file, one in files.items() if name in one.tensors), None)
        if known is not None:
            bias = bias + files[known].read(name).float()
        made[known or weight.file][name] = bias.to(dtype)
        for module in plan.zeros:
            size = width if module.startswith("self_attn") else inner
            made[weight.file][f"{stem}.{module}.bias"] = torch.zeros(size, dtype=dtype)
    return made


def _name_dtype(config: dict[str, Any], served: str) -> None:
    """Name the dtype to be served in a config."""
    if not {"dtype", "torch_dtype"} & set(config):
        config["dtype"] = served
    for section in (config, config["text_config"]):
        for name in {"dtype", "torch_dtype"} & set(section):
            section[name] = served


def _note(request: ExportRequest, plan: BiasPlan, dtype: torch.dtype) -> Iterator[str]:
    shift = request.shift
    blocks = f"block {shift.blocks[0]}" if len(shift.blocks) == 1 else f"blocks {list(shift.blocks)}"
    yield (
        f"The bias of mlp.down_proj at {blocks} of {request.blocks} holds −αΔ, α = {shift.alpha:g}, in "
        f"{str(dtype).removeprefix('torch.')}; it acts at every position, image tokens too."
    )
    if plan.relabelled:
        yield (
            f"text_config says llama and was {plan.relabelled}: the two compute the same here, and only llama has a "
            "bias there (mlp_bias)."
        )


SERVING = """\
```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model, found = AutoModelForImageTextToText.from_pretrained("FOLDER", output_loading_info=True)
assert not found["missing_keys"] and not found["unexpected_keys"], found
processor = AutoProcessor.from_pretrained("FOLDER")
```

A server that drops the bias serves the unsteered model and says nothing, so ask it after each deployment:

```sh
cmrm verify-serving http://127.0.0.1:8000/v1 --canary canary.json
```
"""

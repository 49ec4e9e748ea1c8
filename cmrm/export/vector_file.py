"""A control vector as a GGUF file, in the layout of repeng, which llama.cpp and EasySteer read.

Tensor `direction.N`, float32 [hidden], is *added* to the output of decoder block N, counted from 0; so it holds −αΔ.
Metadata: `general.architecture` is `controlvector`, with `controlvector.model_hint` and `controlvector.layer_count`.
Source: https://github.com/vgel/repeng (repeng/extract.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from cmrm.export.format import ExportError
from cmrm.export.request import ConstantShift
from cmrm.models.optional_packages import need_package

FILE = "control-vector.gguf"
ARCHITECTURE = "controlvector"
PREFIX = "direction."
MEANING = "Added to the output of each block: minus alpha times delta, which points from text to image. Alpha is in it."


def need_gguf(kind: str) -> None:
    """Raise `UserError` unless the package gguf is installed."""
    need_package("gguf", extra="export", field=f"--to {kind}")


def write_vectors(shift: ConstantShift, path: Path, *, model_type: str) -> None:
    """Write what each block adds, −αΔ, to a new file; `model_type` is the language model's, as a hint to people."""
    import gguf

    writer = gguf.GGUFWriter(path, ARCHITECTURE)
    writer.add_description(MEANING)
    writer.add_string(f"{ARCHITECTURE}.model_hint", model_type)
    writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(shift.blocks))
    for block, vector in zip(shift.blocks, shift.added, strict=True):
        writer.add_tensor(f"{PREFIX}{block}", vector.float().contiguous().cpu().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_vectors(path: Path) -> Mapping[int, npt.NDArray[np.float32]]:
    """Read what each block adds, by block: float32 [hidden]."""
    import gguf

    return {
        int(tensor.name.removeprefix(PREFIX)): np.array(tensor.data, dtype=np.float32)
        for tensor in gguf.GGUFReader(path).tensors
    }


def prove_vectors(shift: ConstantShift, found: Mapping[int, npt.NDArray[np.float32]]) -> str:
    """Compare vectors that were read again with the shift, bit for bit; raises `ExportError` if they differ."""
    expected = dict(zip(shift.blocks, shift.added, strict=True))
    if set(found) != set(expected):
        raise ExportError(
            f"export: the file holds vectors of blocks {sorted(found)}, not of {sorted(expected)}."
        )
    for block, vector in expected.items():
        if not torch.equal(torch.from_numpy(found[block]), vector.float().cpu()):
            raise ExportError(f"export: the vector of block {block}, read again, is not the shift's.")
    blocks = f"block{'s' if len(found) > 1 else ''} {', '.join(map(str, sorted(found)))}"
    return (
        f"Read again, what is added at {blocks} is −αΔ bit for bit. Whether a server adds it, `cmrm verify-serving` "
        "tells."
    )

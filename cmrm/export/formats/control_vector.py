"""Format `gguf`: a control vector for llama.cpp, which adds it at every position."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cmrm.errors import UserError
from cmrm.export.format import ExportFormat, Written
from cmrm.export.reference import Reference
from cmrm.export.request import ExportRequest
from cmrm.export.vector_file import FILE, need_gguf, prove_vectors, read_vectors, write_vectors
from cmrm.steering.settings import Scope


@dataclass(frozen=True, kw_only=True)
class ControlVectorFormat(ExportFormat):
    """A GGUF file that llama.cpp adds to the outputs of blocks, at every position and for every request of a server."""

    kind: ClassVar[str] = "gguf"
    acts_at: ClassVar[Scope] = "every_position"

    def check(self, request: ExportRequest) -> None:
        need_gguf(self.kind)
        if 0 in request.shift.blocks:
            raise UserError(
                "--to gguf: llama.cpp applies no control vector at block 0, and refuses a file that has one. Choose "
                "blocks from 1 on (--blocks), or --to checkpoint, easysteer or peft."
            )

    def write(self, request: ExportRequest, folder: Path) -> Written:
        shift = request.shift
        write_vectors(shift, folder / FILE, model_type=str(request.text_config.get("model_type", "")))
        first, last = shift.blocks[0], shift.blocks[-1]
        return Written(
            notes=(
                f"{FILE} holds −αΔ with α = {shift.alpha:g} folded in: scale 1 is what was measured.",
                f"Layer range {first} to {last}, both included, counted as in the file: block 0 is the first.",
                "llama.cpp adds it at every position, image tokens too, and to every request of the server.",
            ),
            serving=_explain(first, last),
            library="llama.cpp",
            tags=("activation-steering", "gguf"),
        )

    def prove(self, request: ExportRequest, folder: Path, reference: Reference) -> tuple[str, ...]:  # noqa: ARG002
        return (prove_vectors(request.shift, read_vectors(folder / FILE)),)


def _explain(first: int, last: int) -> str:
    return f"""\
Beside the model's own GGUF files, made by llama.cpp's converter:

```sh
llama-server -m model.gguf --mmproj mmproj.gguf \\
    --control-vector {FILE} --control-vector-layer-range {first} {last}
```

For another strength, `--control-vector-scaled {FILE}:0.5` in place of `--control-vector`. Then, after each deployment:

```sh
cmrm verify-serving http://127.0.0.1:8080/v1 --canary canary.json
```
"""

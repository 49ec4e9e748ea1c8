"""Format `easysteer`: a control vector, and the spec by which EasySteer's vLLM acts as scope every_step does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from cmrm.export.format import ExportError, ExportFormat, Written
from cmrm.export.reference import Reference
from cmrm.export.request import ExportRequest
from cmrm.export.request_fields import FILE as FIELDS
from cmrm.export.request_fields import prove_request_fields, write_request_fields
from cmrm.export.vector_file import FILE, need_gguf, prove_vectors, read_vectors, write_vectors
from cmrm.steering.settings import Scope

SPEC = "steering.json"


@dataclass(frozen=True, kw_only=True)
class EasySteerFormat(ExportFormat):
    """The GGUF file of format gguf and a `SteeringSpec` (API v2): the last prompt token and every generated one."""

    kind: ClassVar[str] = "easysteer"
    acts_at: ClassVar[Scope] = "every_step"

    def check(self, request: ExportRequest) -> None:  # noqa: ARG002 - it takes every model and block
        need_gguf(self.kind)

    def write(self, request: ExportRequest, folder: Path) -> Written:
        shift = request.shift
        write_vectors(shift, folder / FILE, model_type=str(request.text_config.get("model_type", "")))
        (folder / SPEC).write_text(json.dumps(_make_spec(request), indent=2) + "\n", encoding="utf-8")
        write_request_fields({"steering": _make_spec(request)}, folder)
        return Written(
            notes=(
                f"{FILE} holds −αΔ with α = {shift.alpha:g} folded in: scale 1 is what was measured.",
                f"{SPEC} acts at the last prompt token and at each generated one, as scope every_step does.",
                f"`source` in {SPEC} is a path on the server, from the folder in which it was started.",
            ),
            serving=SERVING,
            library="vllm",
            tags=("activation-steering", "gguf"),
        )

    def prove(self, request: ExportRequest, folder: Path, reference: Reference) -> tuple[str, ...]:  # noqa: ARG002
        if json.loads((folder / SPEC).read_text(encoding="utf-8")) != _make_spec(request):
            raise ExportError(f"export: {SPEC}, read again, is not what was written.")
        prove_request_fields({"steering": _make_spec(request)}, folder)
        return (prove_vectors(request.shift, read_vectors(folder / FILE)),)


def _make_spec(request: ExportRequest) -> dict[str, Any]:
    vector = {
        "source": FILE,
        "algorithm": "direct",
        "scale": 1.0,
        "layers": list(request.shift.blocks),
        "normalize": False,
        "apply": {"prompt_positions": [-1], "generation": "all"},
    }
    return {"vectors": [vector]}


SERVING = f"""\
For every request of a server of [EasySteer](https://github.com/ZJU-REAL/EasySteer), started in this folder (the package
`easysteer` on PyPI is another project):

```sh
vllm serve MODEL --enable-steer-vector --steering-config {SPEC}
cmrm verify-serving http://127.0.0.1:8000/v1 --canary canary.json
```

For single requests, start it with `--steer-algorithms direct` in place of `--steering-config`, and add what
{FIELDS} holds to a request:

```sh
cmrm verify-serving http://127.0.0.1:8000/v1 --canary canary.json --request-fields {FIELDS}
```
"""

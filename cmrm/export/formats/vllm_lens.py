"""Format `vllm-lens`: steering vectors as JSON, which the plug-in of that name takes with each request to vLLM."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cmrm.export.format import ExportFormat, Written
from cmrm.export.reference import Reference
from cmrm.export.request import ConstantShift, ExportRequest
from cmrm.export.request_fields import FILE as FIELDS
from cmrm.export.request_fields import prove_request_fields, write_request_fields
from cmrm.export.vector_file import prove_vectors
from cmrm.steering.settings import Scope

FILE = "steering-vectors.json"


@dataclass(frozen=True, kw_only=True)
class VllmLensFormat(ExportFormat):
    """A list of one `SteeringVector`: activations float32 [blocks, hidden] in base64, added at every position.

    Source: https://github.com/UKGovernmentBEIS/vllm-lens (vllm_lens/_helpers/types.py, _serialize.py), release 1.3.0.
    """

    kind: ClassVar[str] = "vllm-lens"
    acts_at: ClassVar[Scope] = "every_position"

    def write(self, request: ExportRequest, folder: Path) -> Written:
        shift = request.shift
        (folder / FILE).write_text(_write_vectors(shift) + "\n", encoding="utf-8")
        write_request_fields(_make_fields(shift), folder)
        return Written(
            notes=(
                f"{FILE} holds −αΔ with α = {shift.alpha:g} folded in: scale 1 is what was measured.",
                "It acts at every position, image tokens too, and only in requests that bring it along: one without it "
                "is answered by the unsteered model.",
            ),
            serving=SERVING,
            library="vllm",
            tags=("activation-steering",),
        )

    def prove(self, request: ExportRequest, folder: Path, reference: Reference) -> tuple[str, ...]:  # noqa: ARG002
        prove_request_fields(_make_fields(request.shift), folder)
        (vector,) = json.loads((folder / FILE).read_text(encoding="utf-8"))
        numbers = np.frombuffer(base64.b64decode(vector["activations"]["data"]), dtype="<f4")
        rows = numbers.reshape(vector["activations"]["shape"]).astype(np.float32)
        return (prove_vectors(request.shift, dict(zip(vector["layer_indices"], rows, strict=True))),)


def _make_fields(shift: ConstantShift) -> dict[str, Any]:
    return {"vllm_xargs": {"apply_steering_vectors": _write_vectors(shift)}}


def _write_vectors(shift: ConstantShift) -> str:
    return json.dumps([_make_vector(shift)])


def _make_vector(shift: ConstantShift) -> dict[str, Any]:
    numbers = shift.added.float().contiguous().cpu().numpy().astype("<f4")
    return {
        "activations": {
            # Without the key `compression`, the plug-in reads plain numbers.
            "data": base64.b64encode(numbers.tobytes()).decode("ascii"),
            "dtype": "float32",
            "original_dtype": "torch.float32",
            "shape": list(numbers.shape),
        },
        "layer_indices": list(shift.blocks),
        "scale": 1.0,
        "norm_match": False,
        "position_indices": None,
    }


SERVING = f"""\
With the plug-in [vllm-lens](https://github.com/UKGovernmentBEIS/vllm-lens) beside vLLM, which loads itself:

```sh
vllm serve MODEL
```

Each request brings the vectors along, as a string; {FIELDS} holds the field. One without it is answered unsteered:

```sh
cmrm verify-serving http://127.0.0.1:8000/v1 --canary canary.json --request-fields {FIELDS}
```

From Python:

```python
import json
from pathlib import Path

import requests

request = {{
    "model": "MODEL",
    "messages": [{{"role": "user", "content": "…"}}],
    **json.loads(Path("{FIELDS}").read_text()),
}}
print(requests.post("http://127.0.0.1:8000/v1/chat/completions", json=request, timeout=60).json())
```
"""

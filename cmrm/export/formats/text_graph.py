"""Format `onnx`: the steered language model as an ONNX graph, for ONNX Runtime, OpenVINO and others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from cmrm.errors import UserError
from cmrm.export.carried_files import CONFIG, carry_files, list_carried
from cmrm.export.format import ExportFormat, Written
from cmrm.export.graph_session import FILE, answer_by_graph, open_graph
from cmrm.export.proof import compare_answers, compare_logits
from cmrm.export.reference import Reference
from cmrm.export.request import ExportRequest
from cmrm.export.text_graph import write_graph
from cmrm.models.loading import load_model
from cmrm.models.optional_packages import need_package
from cmrm.prefix.sharing import KINDS
from cmrm.steering.settings import Scope

FIELD = "--to onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
GENERATION = "generation_config.json"
# Of images, which stay outside the graph; the config is that of the language model.
LEFT_OUT = frozenset(
    (CONFIG, "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
)


@dataclass(frozen=True, kw_only=True)
class OnnxFormat(ExportFormat):
    """One graph with a KV cache in float32, beside its tokenizer, in the layout of Optimum; images stay outside.

    It adds the shift at the last position of each pass, which is scope every_step where a prompt is given whole.
    """

    kind: ClassVar[str] = "onnx"
    acts_at: ClassVar[Scope] = "every_step"
    dtype: ClassVar[str | None] = "float32"
    takes_images: ClassVar[bool] = False

    def check(self, request: ExportRequest) -> None:
        for package in PACKAGES:
            need_package(package, extra="onnx", field=FIELD)
        if request.dtype != self.dtype:
            raise UserError(
                f"{FIELD}: is written in float32, which every runtime computes in; leave --dtype out, and convert or "
                "quantize the graph by the runtime's own tools."
            )
        if "quantization_config" in request.config:
            raise UserError(
                f"{FIELD}: the weights of {request.model.id!r} are quantized; export the model that they were made "
                "from."
            )
        if others := sorted(set(request.text_config.get("layer_types") or ()) - KINDS):
            raise UserError(
                f"{FIELD}: the backbone of {request.model.id!r} has blocks of {', '.join(others)}, whose cache has no "
                "entry for each token; use --to checkpoint, gguf or easysteer."
            )
        list_carried(request.model.folder, taken=LEFT_OUT, field=FIELD)

    def write(self, request: ExportRequest, folder: Path) -> Written:
        vlm = load_model(
            request.model, dtype="float32", device="cpu", attn_implementation="eager", family=request.family
        )
        write_graph(vlm, request.shift, folder / FILE)
        config = {**vlm.model.config.get_text_config().to_dict(), "dtype": "float32"}
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        carry_files(request.model.folder, folder, taken=LEFT_OUT, field=FIELD)
        if not (folder / GENERATION).exists():
            vlm.model.generation_config.save_pretrained(folder)
        return Written(
            notes=(
                f"{FILE} adds −αΔ, α = {request.shift.alpha:g}, to the last position of each pass: give a prompt whole "
                "(padded on the left in a batch), then one token a pass.",
                "It is the language model alone, in float32: images stay outside.",
            ),
            serving=SERVING,
            library="onnx",
            tags=("activation-steering", "onnx"),
        )

    def prove(self, request: ExportRequest, folder: Path, reference: Reference) -> tuple[str, ...]:  # noqa: ARG002
        graph = open_graph(folder)
        found = [torch.from_numpy(graph.read(probe.token_ids)) for probe in reference.probes]
        answers = [
            answer_by_graph(graph, prompt, max_tokens=prompt.differ_at + 1)
            for prompt in reference.canary.prompts
        ]
        return (f"In ONNX Runtime: {compare_logits(found, reference)}", compare_answers(answers, reference))


SERVING = f"""\
Inputs and outputs are named as Optimum names them: `input_ids`, `attention_mask`, `past_key_values.N.key` and `.value`;
`logits`, `present.N.key` and `.value`. ONNX Runtime, OpenVINO and others load {FILE} with the weights beside it. Ask
the folder itself, by ONNX Runtime:

```sh
cmrm verify-serving FOLDER --canary canary.json
```
"""

"""Exports of a steered model for other people's engines, one file a format, each with a canary that tells if it steers.

Imports `cmrm.api` and what that imports. A package adds a format by an entry point in the group `cmrm.export`.
"""

from __future__ import annotations

from types import MappingProxyType

from cmrm.export.format import ExportFormat, Written
from cmrm.export.request import ConstantShift, ExportRequest, Origin
from cmrm.plugins import Plugins

__all__ = ["FORMATS", "ConstantShift", "ExportFormat", "ExportRequest", "Origin", "Written"]

FORMATS: Plugins[ExportFormat] = Plugins(
    word="export format",
    group="cmrm.export",
    base=ExportFormat,  # type: ignore[type-abstract] # compared with, never constructed
    own=MappingProxyType(
        {
            "checkpoint": "cmrm.export.formats.checkpoint:CheckpointFormat",
            "easysteer": "cmrm.export.formats.easysteer:EasySteerFormat",
            "gguf": "cmrm.export.formats.control_vector:ControlVectorFormat",
            "onnx": "cmrm.export.formats.text_graph:OnnxFormat",
            "peft": "cmrm.export.formats.lora:LoraFormat",
            "vllm-lens": "cmrm.export.formats.vllm_lens:VllmLensFormat",
        }
    ),
)

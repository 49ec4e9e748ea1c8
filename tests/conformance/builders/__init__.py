"""A tiny random model of each family, with its real processor class, saved to a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from tests.conformance.builders import gemma, idefics, llama, llava, others, qwen

BUILDERS: Mapping[str, Callable[[Path], Path]] = MappingProxyType(
    {
        "aya_vision": others.build_aya_vision,
        "gemma3": gemma.build_gemma3,
        "glm4v": qwen.build_glm4v,
        "idefics3": idefics.build_idefics3,
        "internvl": others.build_internvl,
        "llama4": llama.build_llama4,
        "llava": llava.build_llava,
        "llava_next": llava.build_llava_next,
        "llava_onevision": llava.build_llava_onevision,
        "mistral3": others.build_mistral3,
        "mllama": llama.build_mllama,
        "paligemma": gemma.build_paligemma,
        "qwen2_5_vl": qwen.build_qwen2_5_vl,
        "qwen2_vl": qwen.build_qwen2_vl,
        "qwen3_vl": qwen.build_qwen3_vl,
        "smolvlm": idefics.build_smolvlm,
        "vipllava": llava.build_vipllava,
    }
)
# Their processors have a part, for videos mostly, that transformers has with torchvision only.
NEED_TORCHVISION = frozenset(
    {
        "glm4v",
        "internvl",
        "llama4",
        "llava_onevision",
        "mistral3",
        "qwen2_5_vl",
        "qwen2_vl",
        "qwen3_vl",
        "smolvlm",
    }
)

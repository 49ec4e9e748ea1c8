"""A tiny random model of each family, with its real processor class, saved to a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from tests.conformance.builders import deepseek, gemma, glm, idefics, llama, llava, others, qwen

BUILDERS: Mapping[str, Callable[[Path], Path]] = MappingProxyType(
    {
        "aria": idefics.build_aria,
        "aya_vision": others.build_aya_vision,
        "cohere2_vision": others.build_cohere2_vision,
        "deepseek_vl": deepseek.build_deepseek_vl,
        "deepseek_vl_hybrid": deepseek.build_deepseek_vl_hybrid,
        "exaone4_5": qwen.build_exaone4_5,
        "gemma3": gemma.build_gemma3,
        "glm46v": glm.build_glm46v,
        "glm4v": glm.build_glm4v,
        "glm4v_moe": glm.build_glm4v_moe,
        "glm_ocr": glm.build_glm_ocr,
        "idefics2": idefics.build_idefics2,
        "idefics3": idefics.build_idefics3,
        "internvl": others.build_internvl,
        "llama4": llama.build_llama4,
        "llava": llava.build_llava,
        "llava_next": llava.build_llava_next,
        "llava_next_video": llava.build_llava_next_video,
        "llava_onevision": llava.build_llava_onevision,
        "mistral3": others.build_mistral3,
        "mllama": llama.build_mllama,
        "paligemma": gemma.build_paligemma,
        "qwen2_5_vl": qwen.build_qwen2_5_vl,
        "qwen2_vl": qwen.build_qwen2_vl,
        "qwen3_5": qwen.build_qwen3_5,
        "qwen3_5_moe": qwen.build_qwen3_5_moe,
        "qwen3_vl": qwen.build_qwen3_vl,
        "qwen3_vl_moe": qwen.build_qwen3_vl_moe,
        "smolvlm": idefics.build_smolvlm,
        "video_llava": llava.build_video_llava,
        "vipllava": llava.build_vipllava,
    }
)
# Their processors have a part, for videos mostly, that transformers has with torchvision only.
NEED_TORCHVISION = frozenset(
    {
        "cohere2_vision",
        "exaone4_5",
        "glm46v",
        "glm4v",
        "glm4v_moe",
        "glm_ocr",
        "internvl",
        "llama4",
        "llava_next_video",
        "llava_onevision",
        "mistral3",
        "qwen2_5_vl",
        "qwen2_vl",
        "qwen3_5",
        "qwen3_5_moe",
        "qwen3_vl",
        "qwen3_vl_moe",
        "smolvlm",
        "video_llava",
    }
)

"""A tiny random model of each family, with its real processor class, saved to a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from tests.conformance.builders import (
    convolutional,
    deepseek,
    discrete,
    experts,
    gemma,
    gemma_later,
    glm,
    idefics,
    llama,
    llava,
    ocr,
    others,
    qwen,
)

BUILDERS: Mapping[str, Callable[[Path], Path]] = MappingProxyType(
    {
        "aria": idefics.build_aria,
        "aya_vision": others.build_aya_vision,
        "chameleon": discrete.build_chameleon,
        "cohere2_vision": others.build_cohere2_vision,
        "deepseek_vl": deepseek.build_deepseek_vl,
        "deepseek_vl_hybrid": deepseek.build_deepseek_vl_hybrid,
        "emu3": discrete.build_emu3,
        "exaone4_5": qwen.build_exaone4_5,
        "fast_vlm": convolutional.build_fast_vlm,
        "gemma3": gemma.build_gemma3,
        "gemma4": gemma_later.build_gemma4,
        "gemma4_unified": gemma_later.build_gemma4_unified,
        "glm46v": glm.build_glm46v,
        "glm4v": glm.build_glm4v,
        "glm4v_moe": glm.build_glm4v_moe,
        "glm_ocr": glm.build_glm_ocr,
        "idefics2": idefics.build_idefics2,
        "idefics3": idefics.build_idefics3,
        "internvl": others.build_internvl,
        "janus": discrete.build_janus,
        "kimi_k25": experts.build_kimi_k25,
        "lighton_ocr": ocr.build_lighton_ocr,
        "llama4": llama.build_llama4,
        "llava": llava.build_llava,
        "llava_next": llava.build_llava_next,
        "llava_next_video": llava.build_llava_next_video,
        "llava_onevision": llava.build_llava_onevision,
        "mistral3": others.build_mistral3,
        "mllama": llama.build_mllama,
        "paddleocr_vl": ocr.build_paddleocr_vl,
        "paligemma": gemma.build_paligemma,
        "perception_lm": convolutional.build_perception_lm,
        "qwen2_5_vl": qwen.build_qwen2_5_vl,
        "qwen2_vl": qwen.build_qwen2_vl,
        "qwen3_5": qwen.build_qwen3_5,
        "qwen3_5_moe": qwen.build_qwen3_5_moe,
        "qwen3_vl": qwen.build_qwen3_vl,
        "qwen3_vl_moe": qwen.build_qwen3_vl_moe,
        "smolvlm": idefics.build_smolvlm,
        "step3p7": experts.build_step3p7,
        "video_llama_3": ocr.build_video_llama_3,
        "video_llava": llava.build_video_llava,
        "vipllava": llava.build_vipllava,
    }
)
# Their processors have a part, for videos mostly, that transformers has with torchvision only.
NEED_TORCHVISION = frozenset(
    {
        "cohere2_vision",
        "exaone4_5",
        "gemma4",
        "gemma4_unified",
        "glm46v",
        "glm4v",
        "glm4v_moe",
        "glm_ocr",
        "internvl",
        "kimi_k25",
        "llama4",
        "llava_next_video",
        "llava_onevision",
        "mistral3",
        "perception_lm",
        "qwen2_5_vl",
        "qwen2_vl",
        "qwen3_5",
        "qwen3_5_moe",
        "qwen3_vl",
        "qwen3_vl_moe",
        "smolvlm",
        "step3p7",
        "video_llama_3",
        "video_llava",
    }
)

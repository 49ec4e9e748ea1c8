"""Image processors as the families' models are published with them, in place of the tiny ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

HALF = [0.5, 0.5, 0.5]
CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
WIDE = [[384 * height, 384 * width] for height in range(1, 7) for width in range(1, 7)]
NEXT = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def _settings(mean: list[float], deviation: list[float], **more: Any) -> dict[str, Any]:
    return {"image_mean": mean, "image_std": deviation, **more}


_CLIP_336 = _settings(*CLIP, size={"shortest_edge": 336}, crop_size=_square(336))
_GLM = _settings(
    *CLIP, size={"shortest_edge": 12_544, "longest_edge": 9_633_792}, patch_size=14, merge_size=2
)
_QWEN2 = _settings(
    *CLIP, size={"shortest_edge": 3136, "longest_edge": 12_845_056}, patch_size=14, merge_size=2
)
_QWEN3 = _settings(
    HALF, HALF, size={"shortest_edge": 65_536, "longest_edge": 16_777_216}, patch_size=16, merge_size=2
)
# The settings of the image processor, as in the preprocessor_config.json of a model that is named beside it; where a
# class is named, those that transformers gives it, of which the mean and the deviation are written out.
IMAGES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # rhymes-ai/Aria
        "aria": _settings(HALF, HALF, max_image_size=980, min_image_size=336),
        # CohereLabs/aya-vision-8b
        "aya_vision": _settings(HALF, HALF, size=_square(364), crop_to_patches=True, max_patches=12),
        # facebook/chameleon-7b, whose scale is not 1/255
        "chameleon": _settings(
            [1.0] * 3, [1.0] * 3, rescale_factor=0.0078, size={"shortest_edge": 512}, crop_size=_square(512)
        ),
        # Cohere2VisionImageProcessor
        "cohere2_vision": _settings(*CLIP),
        # DeepseekVLImageProcessorPil
        "deepseek_vl": _settings(*CLIP),
        # DeepseekVLHybridImageProcessorPil
        "deepseek_vl_hybrid": _settings(*CLIP),
        # the defaults of transformers' class
        "emu3": _settings(*CLIP, min_pixels=512 * 512, max_pixels=1024 * 1024),
        # Ernie4_5_VLMoeImageProcessorPil
        "ernie4_5_vl_moe": _settings(*CLIP),
        # Qwen2VLImageProcessorPil
        "exaone4_5": _settings(*CLIP),
        # apple/FastVLM-7B
        "fast_vlm": _settings([0.0] * 3, [1.0] * 3, size={"shortest_edge": 1024}, crop_size=_square(1024)),
        # google/gemma-3-4b-it
        "gemma3": _settings(HALF, HALF, size=_square(896)),
        # google/gemma-3n-E4B-it
        "gemma3n": _settings([0.0] * 3, [1.0] * 3, do_normalize=False, size=_square(768)),
        # the defaults of transformers' class
        "gemma4": _settings(
            [0.0] * 3,
            [1.0] * 3,
            do_normalize=False,
            patch_size=16,
            pooling_kernel_size=3,
            max_soft_tokens=280,
        ),
        # the defaults of transformers' class
        "gemma4_unified": _settings(
            [0.0] * 3,
            [1.0] * 3,
            do_normalize=False,
            patch_size=16,
            pooling_kernel_size=3,
            max_soft_tokens=280,
        ),
        # Glm46VImageProcessorPil
        "glm46v": _settings(*CLIP),
        # zai-org/GLM-4.1V-9B-Thinking
        "glm4v": _GLM,
        # zai-org/GLM-4.5V
        "glm4v_moe": _GLM,
        # Glm46VImageProcessorPil
        "glm_ocr": _settings(*CLIP),
        # HuggingFaceM4/idefics2-8b
        "idefics2": _settings(
            HALF, HALF, size={"shortest_edge": 378, "longest_edge": 980}, do_image_splitting=True
        ),
        # HuggingFaceM4/Idefics3-8B-Llama3
        "idefics3": _settings(HALF, HALF, size={"longest_edge": 1456}, max_image_size={"longest_edge": 364}),
        # OpenGVLab/InternVL3-1B-hf
        "internvl": _settings(*IMAGENET, size=_square(448), crop_to_patches=True, max_patches=12),
        # the defaults of transformers' class
        "janus": _settings(*CLIP, size=_square(384)),
        # the defaults of transformers' class
        "kimi_k25": _settings(HALF, HALF, size={"max_height": 512, "max_width": 512}),
        # Lfm2VlImageProcessor
        "lfm2_vl": _settings(HALF, HALF),
        # lightonai/LightOnOCR-1B-1025
        "lighton_ocr": _settings(*CLIP, size={"longest_edge": 1540}, patch_size=_square(28)),
        # meta-llama/Llama-4-Scout-17B-16E-Instruct
        "llama4": _settings(HALF, HALF, size=_square(336), max_patches=16),
        # llava-hf/llava-1.5-7b-hf
        "llava": _CLIP_336,
        # llava-hf/llava-v1.6-mistral-7b-hf
        "llava_next": {**_CLIP_336, "image_grid_pinpoints": NEXT},
        # llava-hf/LLaVA-NeXT-Video-7B-hf
        "llava_next_video": {**_CLIP_336, "image_grid_pinpoints": NEXT},
        # llava-hf/llava-onevision-qwen2-7b-ov-hf
        "llava_onevision": _settings(HALF, HALF, size=_square(384), image_grid_pinpoints=WIDE),
        # mistralai/Mistral-Small-3.1-24B-Instruct-2503
        "mistral3": _settings(*CLIP, size={"longest_edge": 1540}, patch_size=_square(14)),
        # meta-llama/Llama-3.2-11B-Vision-Instruct
        "mllama": _settings(*CLIP, size=_square(560), max_image_tiles=4),
        # Ovis2ImageProcessorPil
        "ovis2": _settings(*CLIP),
        # the defaults of transformers' class
        "paddleocr_vl": _settings(
            *CLIP, size={"shortest_edge": 384 * 384, "longest_edge": 1536 * 1536}, patch_size=14
        ),
        # google/paligemma2-3b-pt-224
        "paligemma": _settings(HALF, HALF, size=_square(224)),
        # the defaults of transformers' class
        "perception_lm": _settings(HALF, HALF, size=_square(448), tile_size=448, max_num_tiles=36),
        # Qwen/Qwen2.5-VL-7B-Instruct
        "qwen2_5_vl": _QWEN2,
        # Qwen/Qwen2-VL-7B-Instruct
        "qwen2_vl": _QWEN2,
        # Qwen/Qwen3.5-27B and its like are taken to have those of Qwen3-VL, whose processor and patches they have.
        "qwen3_5": _QWEN3,
        "qwen3_5_moe": _QWEN3,
        # Qwen/Qwen3-VL-8B-Instruct
        "qwen3_vl": _QWEN3,
        # Qwen/Qwen3-VL-30B-A3B-Instruct
        "qwen3_vl_moe": _QWEN3,
        # HuggingFaceTB/SmolVLM-500M-Instruct
        "smolvlm": _settings(HALF, HALF, size={"longest_edge": 2048}, max_image_size={"longest_edge": 512}),
        # the defaults of transformers' class
        "step3p7": _settings(
            *CLIP, size=_square(728), patch_size=504, max_image_size=3024, vision_patch_size=14
        ),
        # the defaults of transformers' class
        "video_llama_3": _settings(
            HALF, HALF, size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}, patch_size=14
        ),
        # LanguageBind/Video-LLaVA-7B-hf
        "video_llava": _settings(*CLIP, size={"shortest_edge": 224}, crop_size=_square(224)),
        # llava-hf/vip-llava-7b-hf
        "vipllava": _CLIP_336,
    }
)
# What the whole processor counts image tokens by.
COUNTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "aria": {
            "images_kwargs": {"max_image_size": 980, "split_image": False},
            "size_conversion": {490: 128, 980: 256},
        },
        "aya_vision": {"patch_size": 28, "img_size": 364},
        "chameleon": {"image_seq_length": 1024},
        "cohere2_vision": {"patch_size": 16},
        "deepseek_vl": {"num_image_tokens": 576},
        "deepseek_vl_hybrid": {"num_image_tokens": 576},
        "fast_vlm": {"patch_size": 64},
        "gemma3": {
            "image_seq_length": 256,
            "full_image_sequence": f"\n\n<start_of_image>{'<image_soft_token>' * 256}<end_of_image>\n\n",
        },
        "gemma3n": {
            "image_seq_length": 256,
            "full_image_sequence": f"\n\n<start_of_image>{'<image_soft_token>' * 256}<end_of_image>\n\n",
        },
        "idefics2": {"image_seq_len": 64},
        "idefics3": {"image_seq_len": 169},
        "internvl": {"image_seq_length": 256},
        "janus": {"num_image_tokens": 576},
        "lighton_ocr": {"patch_size": 14, "effective_patch_size": 28},
        "llama4": {"patch_size": 14, "downsample_ratio": 4},
        "llava": {"patch_size": 14},
        "llava_next": {"patch_size": 14},
        "llava_next_video": {"patch_size": 14},
        "llava_onevision": {"num_image_tokens": 729, "vision_aspect_ratio": "anyres_max_9"},
        "mistral3": {"patch_size": 14},
        "ovis2": {"image_seq_length": 256},
        "paligemma": {"image_seq_length": 256},
        "perception_lm": {"patch_size": 14},
        "smolvlm": {"image_seq_len": 64},
        "step3p7": {
            "image_feature_placeholder": "<im_patch>" * 169,
            "patch_feature_placeholder": "<im_patch>" * 81,
        },
        "video_llava": {"patch_size": 14},
        "vipllava": {"patch_size": 14},
    }
)


def publish(vlm: Any, name: str) -> Any:
    """Give a family's tiny model the image processor that its models are published with; its weights do not fit it."""
    processor = vlm.processor
    processor.image_processor = type(processor.image_processor)(**IMAGES[name])
    for field, value in COUNTS.get(name, {}).items():
        assert hasattr(processor, field), f"{type(processor).__name__} has no {field}"
        setattr(processor, field, value)
    return vlm


def examine_published(vlm: Any) -> dict[str, Any]:
    """What the tower sees of a blank and of noise at the size of the family, and how many vectors a blank is.

    The vectors are those of the tiny model with its own processor; all else is behind the published one. `contrast` is
    the noise's standard deviation in grey levels, `uniform` and `low` are those of the blank.
    """
    from cmrm.models.pixel_values import read_pixel_values
    from cmrm.models.stimulus import count_distinct
    from cmrm.prompts.meaningless_images import WHITE, blank_image, noise_image

    own = blank_image(size=32, color=WHITE)
    tokens = read_pixel_values(vlm, own).tokens
    distinct = count_distinct(vlm, own)
    vlm = publish(replace(vlm, processor=copy.deepcopy(vlm.processor)), vlm.family.model_type)
    size = vlm.family.image_size
    blank = read_pixel_values(vlm, blank_image(size=size, color=WHITE))
    noise = read_pixel_values(vlm, noise_image(size=size, seed=0))
    assert noise.contrast is not None
    return {
        "size": size,
        "uniform": blank.uniform,
        "low": blank.values.amin(dim=1).tolist(),
        "tokens": blank.tokens,
        "contrast": sum(noise.contrast) / 3,
        "distinct": [distinct, tokens],
    }

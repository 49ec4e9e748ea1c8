"""Tiny ERNIE 4.5 VL: positions of three numbers a token, and experts of their own for what is an image's."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    Ernie4_5_VLMoeConfig,
    Ernie4_5_VLMoeForConditionalGeneration,
    Ernie4_5_VLMoeImageProcessorPil,
)

from tests.conformance.builders.qwen import MERGE, PATCH, SIZE, VISION
from tests.conformance.parts import TEXT, make_tokenizer, save, token_ids

NAMED = {
    "image_token": "<|IMAGE_PLACEHOLDER|>",
    "image_start_token": "<|IMAGE_START|>",
    "image_end_token": "<|IMAGE_END|>",
    "video_token": "<|VIDEO_PLACEHOLDER|>",
    "video_start_token": "<|VIDEO_START|>",
    "video_end_token": "<|VIDEO_END|>",
}
TURNS = (
    "<|begin_of_sentence|>{% for message in messages %}{{ message['role'] | capitalize }}: "
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "Picture 1:<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)


def build_ernie4_5_vl_moe(folder: Path) -> Path:
    """ERNIE 4.5 VL: a dense block, then three with experts for text, and others for images and their marks."""
    from transformers import Ernie4_5_VLMoeProcessor, Ernie4_5_VLMoeVideoProcessor

    tokenizer = make_tokenizer(
        ["<unk>", "<|begin_of_sentence|>", "<|end_of_sentence|>", *NAMED.values()],
        pad="<unk>",
        bos="<|begin_of_sentence|>",
        eos="<|end_of_sentence|>",
        named=NAMED,
    )
    tower = {name: value for name, value in VISION.items() if name != "temporal_patch_size"}
    model = Ernie4_5_VLMoeForConditionalGeneration(
        Ernie4_5_VLMoeConfig(
            vision_config={**tower, "hidden_size": 32},
            text_config={
                **TEXT, **token_ids(tokenizer), "moe_intermediate_size": [32, 16], "moe_k": 2,
                "moe_num_experts": 4, "moe_num_shared_experts": 1, "tie_word_embeddings": False,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
            },
            tie_word_embeddings=False,
            **{f"{name}_id": tokenizer.convert_tokens_to_ids(word) for name, word in NAMED.items()},
        )
    )  # fmt: skip
    grid = {"patch_size": PATCH, "merge_size": MERGE}
    processor = Ernie4_5_VLMoeProcessor(
        image_processor=Ernie4_5_VLMoeImageProcessorPil(size=SIZE, **grid),
        tokenizer=tokenizer,
        # It would draw the time on each frame, with letters of a file that it brings.
        video_processor=Ernie4_5_VLMoeVideoProcessor(size=SIZE, draw_on_frames=False, **grid),
        chat_template=TURNS,
    )
    return save(folder, model, processor)

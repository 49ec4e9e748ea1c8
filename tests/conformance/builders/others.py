"""Tiny Aya Vision, Command A Vision, InternVL and Mistral 3."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    AyaVisionProcessor,
    Cohere2Config,
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralImageProcessorPil,
    PixtralVisionConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from tests.conformance.parts import TEXT, TOWER, make_tokenizer, save, token_ids

SIDE, PATCH = 32, 8
SQUARE = {"height": SIDE, "width": SIDE}

AYA_VISION = (
    "{{ bos_token }}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|># Safety Preamble\nYou are Aya.\n"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'][0]['text'] }}{% endif %}<|END_OF_TURN_TOKEN|>"
    "{% for message in messages if message['role'] != 'system' %}<|START_OF_TURN_TOKEN|><|USER_TOKEN|>"
    "{% for item in message['content'] | selectattr('type', 'equalto', 'image') %}<image>{% endfor %}"
    "{% for item in message['content'] | selectattr('type', 'equalto', 'text') %}{{ item['text'] }}{% endfor %}"
    "<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>{% endif %}"
)
INTERNVL = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% elif content['type'] == 'video' %}{{ '<video>\n' }}"
    "{% elif content['type'] == 'text' %}"
    "{{ content['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As published: where no system line is given, one of its own that says what day it is.
MISTRAL3 = (
    "{%- set today = strftime_now('%Y-%m-%d') %}"
    "{%- set default_system_message = 'You are Mistral Small 3. The current date is ' + today + '.' %}{{- bos_token }}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'][0]['text'] %}"
    "{%- set loop_messages = messages[1:] %}{%- else %}{%- set system_message = default_system_message %}"
    "{%- set loop_messages = messages %}{%- endif %}"
    "{{- '[SYSTEM_PROMPT]' + system_message + '[/SYSTEM_PROMPT]' }}{%- for message in loop_messages %}{{- '[INST]' }}"
    "{%- for block in message['content'] %}{%- if block['type'] == 'text' %}{{- block['text'] }}"
    "{%- elif block['type'] in ['image', 'image_url'] %}{{- '[IMG]' }}{%- endif %}{%- endfor %}{{- '[/INST]' }}"
    "{%- endfor %}"
)


def build_aya_vision(folder: Path) -> Path:
    """Aya Vision: SigLIP on tiles of the image, and Cohere 2, with windows shorter than its prompts."""
    tokenizer = make_tokenizer(
        ["<PAD>", "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>",
         "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|START_RESPONSE|>", "<|START_OF_IMG|>", "<|END_OF_IMG|>",
         "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "TILE_GLOBAL", *(f"TILE_{number}" for number in range(1, 5))],
        pad="<PAD>",
        bos="<BOS_TOKEN>",
        eos="<|END_OF_TURN_TOKEN|>",
    )  # fmt: skip
    model = AyaVisionForConditionalGeneration(
        AyaVisionConfig(
            vision_config=SiglipVisionConfig(
                image_size=SIDE, patch_size=PATCH, vision_use_head=False, **TOWER
            ),
            text_config=Cohere2Config(**TEXT, **token_ids(tokenizer), logit_scale=1.0, sliding_window=12),
            image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        )
    )
    processor = AyaVisionProcessor(
        image_processor=GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=True, max_patches=4),
        tokenizer=tokenizer,
        patch_size=PATCH * 2,
        img_size=SIDE,
        downsample_factor=1,
        chat_template=AYA_VISION,
    )
    return save(folder, model, processor)


def build_cohere2_vision(folder: Path) -> Path:
    """Command A Vision: SigLIP on tiles of the image, and Cohere 2, with windows shorter than its prompts."""
    from transformers import Cohere2VisionImageProcessor, Cohere2VisionProcessor

    tokenizer = make_tokenizer(
        ["<PAD>", "<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>",
         "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|START_RESPONSE|>", "<|START_OF_IMG|>", "<|END_OF_IMG|>",
         "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>"],
        pad="<PAD>",
        bos="<BOS_TOKEN>",
        eos="<|END_OF_TURN_TOKEN|>",
        named={
            "boi_token": "<|START_OF_IMG|>",
            "eoi_token": "<|END_OF_IMG|>",
            "image_token": "<|IMG_PATCH|>",
            "img_line_break_token": "<|IMG_LINE_BREAK|>",
        },
    )  # fmt: skip
    model = Cohere2VisionForConditionalGeneration(
        Cohere2VisionConfig(
            vision_config=SiglipVisionConfig(
                image_size=SIDE, patch_size=PATCH, vision_use_head=False, **TOWER
            ),
            text_config=Cohere2Config(**TEXT, **token_ids(tokenizer), logit_scale=1.0, sliding_window=12),
            image_token_id=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
            alignment_intermediate_size=64,
        )
    )
    processor = Cohere2VisionProcessor(
        # Its patches are the tiles' image tokens a side.
        image_processor=Cohere2VisionImageProcessor(
            size=SQUARE, max_patches=4, patch_size=SIDE // PATCH // 2
        ),
        tokenizer=tokenizer,
        chat_template=AYA_VISION.replace("<image>", "<|IMG_PATCH|>"),
    )
    return save(folder, model, processor)


def build_internvl(folder: Path) -> Path:
    """InternVL: InternViT on tiles of the image, and Qwen2; its processor has a part for videos."""
    from transformers import InternVLVideoProcessor

    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>"],
        pad="<|endoftext|>",
        eos="<|im_end|>",
        named={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )
    model = InternVLForConditionalGeneration(
        InternVLConfig(
            vision_config={**TOWER, "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]},
            text_config=Qwen2Config(**TEXT, **token_ids(tokenizer)),
            image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
            image_seq_length=4,
        )
    )
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=True, max_patches=4),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=SQUARE),
        image_seq_length=4,
        chat_template=INTERNVL,
    )
    return save(folder, model, processor)


def build_mistral3(folder: Path) -> Path:
    """Mistral 3: Pixtral's tower, which takes images of any size, and Mistral."""
    from transformers import PixtralProcessor

    tokenizer = make_tokenizer(
        ["<unk>", "<s>", "</s>", "<pad>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG]",
         "[IMG_BREAK]", "[IMG_END]"],
        pad="<pad>",
        bos="<s>",
        eos="</s>",
    )  # fmt: skip
    model = Mistral3ForConditionalGeneration(
        Mistral3Config(
            vision_config=PixtralVisionConfig(image_size=2 * SIDE, patch_size=PATCH, **TOWER),
            text_config=MistralConfig(**TEXT, **token_ids(tokenizer), sliding_window=12),
            image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        )
    )
    processor = PixtralProcessor(
        image_processor=PixtralImageProcessorPil(
            size={"longest_edge": 2 * SIDE}, patch_size={"height": PATCH, "width": PATCH}
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        spatial_merge_size=2,
        chat_template=MISTRAL3,
    )
    return save(folder, model, processor)

"""Tiny LLaVA-1.5, LLaVA-NeXT, LLaVA-OneVision, VipLLaVA, and those that were made for videos."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    MistralConfig,
    Qwen2Config,
    SiglipVisionConfig,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaImageProcessor,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from tests.conformance.parts import TEXT, TOWER, make_tokenizer, save, token_ids

SIDE, PATCH = 16, 8
SQUARE = {"height": SIDE, "width": SIDE}
GRID = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]

LLAVA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
# As LLaVA-NeXT-Video prints videos, behind images.
LLAVA_VIDEO = LLAVA.replace(
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}",
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}",
)
LLAVA_NEXT = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<<SYS>>\n' + message['content'][0]['text'] + '\n<</SYS>>\n\n' }}{% elif message['role'] == 'user' %}"
    "{{ '[INST] ' }}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] }}{% endfor %}{{ ' [/INST]' }}{% endif %}{% endfor %}"
)
LLAVA_ONEVISION = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + ' ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + content['text'] }}"
    "{% endfor %}{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VIPLLAVA = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'][0]['text'] }}"
    "{% else %}{{ '###' + ('Human' if message['role'] == 'user' else 'Assistant') + ': ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '###Assistant:' }}{% endif %}"
)

CLIP = CLIPVisionConfig(image_size=SIDE, patch_size=PATCH, **TOWER)


def build_llava(folder: Path) -> Path:
    """LLaVA-1.5: CLIP and Llama."""
    tokenizer = make_tokenizer(["<pad>", "<s>", "</s>", "<image>"], pad="<pad>", bos="<s>", eos="</s>")
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIP,
            text_config=LlamaConfig(**TEXT, **token_ids(tokenizer)),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )
    return save(folder, model, _llava_processor(tokenizer, LLAVA))


def build_vipllava(folder: Path) -> Path:
    """VipLLaVA: several layers of CLIP, with the token of its class, and Llama."""
    tokenizer = make_tokenizer(["<pad>", "<s>", "</s>", "<image>"], pad="<pad>", bos="<s>", eos="</s>")
    model = VipLlavaForConditionalGeneration(
        VipLlavaConfig(
            vision_config=CLIP,
            text_config=LlamaConfig(**TEXT, **token_ids(tokenizer)),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            vision_feature_layer=[-2, -1],
        )
    )
    return save(folder, model, _llava_processor(tokenizer, VIPLLAVA))


def build_llava_next(folder: Path) -> Path:
    """LLaVA-NeXT: CLIP on tiles of the image, and Mistral."""
    tokenizer = make_tokenizer(["<pad>", "<s>", "</s>", "<image>"], pad="<pad>", bos="<s>", eos="</s>")
    model = LlavaNextForConditionalGeneration(
        LlavaNextConfig(
            vision_config=CLIP,
            text_config=MistralConfig(**TEXT, **token_ids(tokenizer), sliding_window=None),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            image_grid_pinpoints=GRID,
        )
    )
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=GRID
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_NEXT,
    )
    return save(folder, model, processor)


def build_llava_next_video(folder: Path) -> Path:
    """LLaVA-NeXT-Video, which takes images as LLaVA-NeXT does."""
    from transformers import LlavaNextVideoProcessor, LlavaNextVideoVideoProcessor

    tokenizer = _video_tokenizer()
    model = LlavaNextVideoForConditionalGeneration(
        LlavaNextVideoConfig(
            vision_config=CLIP,
            text_config=LlamaConfig(**TEXT, **token_ids(tokenizer)),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
            image_grid_pinpoints=GRID,
        )
    )
    processor = LlavaNextVideoProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=GRID
        ),
        tokenizer=tokenizer,
        video_processor=LlavaNextVideoVideoProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_VIDEO,
    )
    return save(folder, model, processor)


def build_video_llava(folder: Path) -> Path:
    """Video-LLaVA: a tower for images and one for videos."""
    from transformers import VideoLlavaProcessor, VideoLlavaVideoProcessor

    tokenizer = _video_tokenizer()
    model = VideoLlavaForConditionalGeneration(
        VideoLlavaConfig(
            vision_config=CLIP,
            text_config=LlamaConfig(**TEXT, **token_ids(tokenizer)),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        )
    )
    processor = VideoLlavaProcessor(
        image_processor=VideoLlavaImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE),
        tokenizer=tokenizer,
        video_processor=VideoLlavaVideoProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_VIDEO,
    )
    return save(folder, model, processor)


def build_llava_onevision(folder: Path) -> Path:
    """LLaVA-OneVision: SigLIP on tiles of the image, and Qwen2. Its processor has a part for videos."""
    from transformers import LlavaOnevisionVideoProcessor

    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"],
        pad="<|endoftext|>",
        eos="<|im_end|>",
    )
    model = LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(
            vision_config=SiglipVisionConfig(
                image_size=SIDE, patch_size=PATCH, vision_use_head=False, **TOWER
            ),
            text_config=Qwen2Config(**TEXT, **token_ids(tokenizer)),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
            image_grid_pinpoints=GRID,
        )
    )
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=GRID),
        tokenizer=tokenizer,
        video_processor=LlavaOnevisionVideoProcessor(size=SQUARE),
        num_image_tokens=(SIDE // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=LLAVA_ONEVISION,
    )
    return save(folder, model, processor)


def _llava_processor(tokenizer, template: str) -> LlavaProcessor:
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )


def _video_tokenizer():
    return make_tokenizer(["<pad>", "<s>", "</s>", "<image>", "<video>"], pad="<pad>", bos="<s>", eos="</s>")

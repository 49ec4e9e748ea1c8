"""Tiny Idefics3 and SmolVLM."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessorPil,
)

from tests.conformance.parts import TEXT, TOWER, make_tokenizer, save, token_ids

SIDE, PATCH, SCALE = 32, 8, 2
IMAGE_TOKENS = (SIDE // PATCH // SCALE) ** 2
VISION = {**TOWER, "image_size": SIDE, "patch_size": PATCH}
# An image of twice the tower's side comes in four tiles and the whole.
SIZES = {"size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}}
IMAGE_WORDS = [
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 3) for column in range(1, 3)),
]

TURNS = (
    "{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def build_idefics3(folder: Path) -> Path:
    """Idefics3: SigLIP on tiles of the image, and Llama 3."""
    tokenizer = make_tokenizer(
        ["<|begin_of_text|>", "<|end_of_text|>", "<pad>", "<end_of_utterance>", *IMAGE_WORDS],
        pad="<pad>",
        bos="<|begin_of_text|>",
        eos="<end_of_utterance>",
    )
    model = Idefics3ForConditionalGeneration(
        Idefics3Config(
            vision_config=VISION,
            text_config=LlamaConfig(**TEXT, **token_ids(tokenizer)),
            scale_factor=SCALE,
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(**SIZES),
        tokenizer=tokenizer,
        image_seq_len=IMAGE_TOKENS,
        chat_template="<|begin_of_text|>" + TURNS,
    )
    return save(folder, model, processor)


def build_smolvlm(folder: Path) -> Path:
    """SmolVLM: as Idefics3, smaller; its processor has a part for videos."""
    from transformers import SmolVLMProcessor, SmolVLMVideoProcessor

    tokenizer = make_tokenizer(
        ["<|im_start|>", "<|im_end|>", "<end_of_utterance>", *IMAGE_WORDS],
        pad="<|im_end|>",
        bos="<|im_start|>",
        eos="<end_of_utterance>",
    )
    model = SmolVLMForConditionalGeneration(
        SmolVLMConfig(
            vision_config=VISION,
            text_config=LlamaConfig(**TEXT, **token_ids(tokenizer)),
            scale_factor=SCALE,
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessorPil(**SIZES),
        tokenizer=tokenizer,
        video_processor=SmolVLMVideoProcessor(**SIZES),
        image_seq_len=IMAGE_TOKENS,
        chat_template="<|im_start|>" + TURNS,
    )
    return save(folder, model, processor)

"""Tiny Idefics2, Idefics3, SmolVLM and Aria."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    AriaConfig,
    AriaForConditionalGeneration,
    AriaImageProcessorPil,
    AriaProcessor,
    AriaTextConfig,
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics2ImageProcessorPil,
    Idefics2Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    Idefics3VisionConfig,
    LlamaConfig,
    MistralConfig,
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
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% elif line['type'] == 'video' %}"
    "{{ '<video>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

ARIA = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'text' %}{{ content['text'] }}{% elif content['type'] == 'image' %}"
    "<fim_prefix><|img|><fim_suffix>{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_aria(folder: Path) -> Path:
    """Aria: a tower that takes images of two sizes, queries that read it, and blocks of experts."""
    tokenizer = make_tokenizer(
        ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<fim_prefix>", "<fim_suffix>", "<|img|>"],
        pad="<unk>",
        bos="<s>",
        eos="<|im_end|>",
        named={"image_token": "<|img|>"},
    )
    model = AriaForConditionalGeneration(
        AriaConfig(
            # Sides are fixed in its processor: 490 and 980.
            vision_config=Idefics3VisionConfig(**TOWER, image_size=980, patch_size=70),
            text_config=AriaTextConfig(
                **TEXT, **token_ids(tokenizer), moe_num_experts=4, moe_topk=2, moe_num_shared_experts=1
            ),
            image_token_index=tokenizer.convert_tokens_to_ids("<|img|>"),
            projector_patch_to_query_dict={49: 4, 196: 8},
        )
    )
    processor = AriaProcessor(
        image_processor=AriaImageProcessorPil(max_image_size=490),
        tokenizer=tokenizer,
        size_conversion={490: 4, 980: 8},
        chat_template=ARIA,
    )
    return save(folder, model, processor)


def build_idefics2(folder: Path) -> Path:
    """Idefics2: SigLIP on images of any shape, latents that read it, and Mistral."""
    tokenizer = make_tokenizer(
        ["<unk>", "<s>", "</s>", "<end_of_utterance>", *IMAGE_WORDS[:2]],
        pad="<unk>",
        bos="<s>",
        eos="<end_of_utterance>",
    )
    model = Idefics2ForConditionalGeneration(
        Idefics2Config(
            vision_config=VISION,
            perceiver_config={
                "hidden_size": TEXT["hidden_size"], "resampler_n_latents": IMAGE_TOKENS, "resampler_depth": 1,
                "resampler_n_heads": 4, "resampler_head_dim": 8, "num_key_value_heads": 2,
            },
            text_config=MistralConfig(**TEXT, **token_ids(tokenizer), sliding_window=None),
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )  # fmt: skip
    processor = Idefics2Processor(
        image_processor=Idefics2ImageProcessorPil(size={"shortest_edge": SIDE // 2, "longest_edge": SIDE}),
        tokenizer=tokenizer,
        image_seq_len=IMAGE_TOKENS,
        chat_template="<s>" + TURNS,
    )
    return save(folder, model, processor)


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

"""Tiny Chameleon, Emu3 and Janus: they read images, and elsewhere make some; the first two as words of a codebook."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ChameleonImageProcessorPil,
    ChameleonProcessor,
    Emu3Config,
    Emu3ForConditionalGeneration,
    Emu3ImageProcessor,
    Emu3Processor,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusImageProcessorPil,
    JanusProcessor,
    LlamaConfig,
)

from tests.conformance.parts import TEXT, TOWER, make_tokenizer, save, token_ids

SIDE, PATCH = 32, 8
SQUARE = {"height": SIDE, "width": SIDE}
# Three halvings of the image's sides, and a codebook of ten words.
CODEBOOK = 10
VQ = {
    "embed_dim": 4,
    "latent_channels": 4,
    "base_channels": 32,
    "channel_multiplier": [1, 1, 1, 1],
    "num_res_blocks": 1,
}

EMU3 = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<image>' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
JANUS = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<|User|>: ' }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|Assistant|>: ' }}{% endif %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<image_placeholder>\n' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{{ '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|>:' }}{% endif %}"
)


def build_chameleon(folder: Path) -> Path:
    """Chameleon: an image is words of the vocabulary; no chat template, as it is published."""
    words = ["<pad>", "<s>", "</s>", "<reserved08706>", "<racm3:break>", "<eoss>", "<image>"]
    # The names that the model reads the numbers of its codebook from.
    words += [f"IMGIMG{chr(ord('A') + number)}Z" for number in range(CODEBOOK)]
    tokenizer = make_tokenizer(words, pad="<pad>", bos="<s>", eos="</s>")
    tokenizer.sep_token = "<reserved08706>"
    model = ChameleonForConditionalGeneration(
        ChameleonConfig(
            **TEXT,
            **token_ids(tokenizer),
            vq_config={**VQ, "num_embeddings": CODEBOOK, "resolution": SIDE, "attn_type": "vanilla"},
            vocabulary_map=tokenizer.get_vocab(),
        )
    )
    processor = ChameleonProcessor(
        image_processor=ChameleonImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE),
        tokenizer=tokenizer,
        image_seq_length=(SIDE // 8) ** 2,
    )
    return save(folder, model, processor)


def build_emu3(folder: Path) -> Path:
    """Emu3: an image is words of the vocabulary, with one more at the end of each row."""
    words = ["<|extra_203|>", "<|extra_204|>", "<|endoftext|>", "<|image start|>", "<|image end|>", "<|image token|>",
             "<|extra_201|>", "<|extra_200|>", "<image>"]  # fmt: skip
    words += [f"<|visual token {number:06d}|>" for number in range(CODEBOOK)]
    tokenizer = make_tokenizer(
        words,
        pad="<|endoftext|>",
        bos="<|extra_203|>",
        eos="<|extra_204|>",
        named={
            "image_token": "<image>",
            "boi_token": "<|image start|>",
            "eoi_token": "<|image end|>",
            "image_wrapper_token": "<|image token|>",
            "eof_token": "<|extra_201|>",
        },
    )
    model = Emu3ForConditionalGeneration(
        Emu3Config(
            vq_config={
                **VQ, "codebook_size": CODEBOOK, "hidden_size": 32, "attn_resolutions": [3],
                "temporal_downsample_factor": 1,
            },
            text_config={**TEXT, **token_ids(tokenizer)},
            vocabulary_map=tokenizer.get_vocab(),
        )
    )  # fmt: skip
    processor = Emu3Processor(
        image_processor=Emu3ImageProcessor(min_pixels=SIDE**2, max_pixels=SIDE**2),
        tokenizer=tokenizer,
        chat_template=EMU3,
    )
    return save(folder, model, processor)


def build_janus(folder: Path) -> Path:
    """Janus: one tower for images that it reads, and a codebook for those that it makes, which stays unused here."""
    tokenizer = make_tokenizer(
        ["<｜▁pad▁｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<image_placeholder>", "<begin_of_image>",
         "<end_of_image>"],
        pad="<｜▁pad▁｜>",
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
        named={
            "image_token": "<image_placeholder>",
            "boi_token": "<begin_of_image>",
            "eoi_token": "<end_of_image>",
        },
    )  # fmt: skip
    model = JanusForConditionalGeneration(
        JanusConfig(
            vision_config={
                **{key: value for key, value in TOWER.items() if key != "intermediate_size"},
                "mlp_ratio": 2,
                "image_size": SIDE,
                "patch_size": PATCH,
                "projection_dim": TEXT["hidden_size"],
                "num_image_tokens": (SIDE // PATCH) ** 2,
            },
            vq_config={
                **VQ, "num_embeddings": CODEBOOK, "projection_dim": 8, "image_token_embed_dim": TEXT["hidden_size"],
            },
            text_config=LlamaConfig(**TEXT, **token_ids(tokenizer)),
            image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
        )
    )  # fmt: skip
    processor = JanusProcessor(
        image_processor=JanusImageProcessorPil(size=SQUARE),
        tokenizer=tokenizer,
        num_image_tokens=(SIDE // PATCH) ** 2,
        chat_template=JANUS,
    )
    return save(folder, model, processor)

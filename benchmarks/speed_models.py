"""Models of real shape with random weights, made on the device, with a processor that needs no hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from speed_prompts import ask_text
from speed_shapes import MERGE, PATCH, Shape
from speed_tokenizer import make_tokenizer
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from cmrm.models.vlm import VisionLanguageModel, prepare_model, render

LLAVA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
QWEN = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA_WORDS = ("<pad>", "<s>", "</s>", "<image>")
QWEN_WORDS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Steadiness:
    """How peaked attention is, and how strongly a word asks for its follower."""

    attention: float
    ring: float


# In float32 about half of an answer's words hang on the whole context, so equal answers prove equal caches. In half
# precision such words would differ by rounding between any two batch sizes; there the follower decides.
STEADY = {
    torch.float32: Steadiness(attention=3.0, ring=14.0),
    torch.bfloat16: Steadiness(attention=1.0, ring=40.0),
}


def build(shape: Shape, *, device: str, dtype: torch.dtype) -> VisionLanguageModel:
    """Make the model on the device, and its processor."""
    make: Callable[..., tuple[Any, Any]] = {"llava": _make_llava, "qwen": _make_qwen}[shape.kind]
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    # What `draw_weights` leaves as it is made: CLIP's class embedding. Answers, and their lengths, hang on it.
    torch.manual_seed(0)
    try:
        with torch.device(device):
            model, processor = make(shape)
    finally:
        torch.set_default_dtype(before)
    draw_weights(model, silent=processor.tokenizer.all_special_ids, steadiness=STEADY[dtype])
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    vlm = prepare_model(model.eval(), processor, where=f"the {shape.kind} shape")
    hush_last_token(vlm)
    return vlm


@torch.no_grad()
def draw_weights(model: Any, *, silent: Sequence[int], steadiness: Steadiness) -> None:
    """Weights under which states keep their size from block to block, and answers depend on all of the prompt.

    Words in `silent` are never said: no answer ends by itself, and none holds an image's placeholder.
    """
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    generator = torch.Generator(device=head.device).manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.dim() > 1:
            weight.normal_(0, weight[0].numel() ** -0.5, generator=generator)
            if "language_model" in name and name.endswith(("q_proj.weight", "k_proj.weight")):
                weight.mul_(steadiness.attention)
    embeddings.normal_(0, 1, generator=generator)
    # Each word has one that likes to follow it, all words in one ring: greedy answers would go in small circles else.
    depth = (model.config.get_text_config().num_hidden_layers / 8) ** 0.5
    ring = torch.randperm(len(head), generator=generator, device=head.device)
    head[ring.roll(-1)] += steadiness.ring * depth / embeddings.shape[1] * embeddings[ring]
    head[list(silent)] = 0


@torch.no_grad()
def hush_last_token(vlm: VisionLanguageModel) -> None:
    """Make the embedding of the token that ends every prompt small, so that first words differ between prompts."""
    inputs = render(vlm, ask_text(["what"]))
    vlm.model.get_input_embeddings().weight[inputs["input_ids"][0, -1]] *= 0.05


def end_answers(vlm: VisionLanguageModel, *, one_in: int) -> None:
    """Let one word in so many end an answer, so that lengths differ as those of real answers do; 0 for none."""
    tokenizer = vlm.processor.tokenizer
    words = range(len(tokenizer.all_special_ids), vlm.model.get_output_embeddings().weight.shape[0])
    ends = [word for word in words if one_in and word % one_in == one_in - 1]
    vlm.model.generation_config.eos_token_id = [tokenizer.eos_token_id, *ends]


def _text(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.wide,
        "num_hidden_layers": shape.blocks,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_heads,
        "vocab_size": shape.words,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _make_llava(shape: Shape) -> tuple[Any, Any]:
    tokenizer = make_tokenizer(LLAVA_WORDS, words=shape.words, pad="<pad>", eos="</s>")
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=shape.tower_hidden,
                intermediate_size=shape.tower_wide,
                num_hidden_layers=shape.tower_blocks,
                num_attention_heads=shape.tower_heads,
                image_size=shape.side,
                patch_size=PATCH,
            ),
            text_config=LlamaConfig(**_text(shape, tokenizer)),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )
    square = {"height": shape.side, "width": shape.side}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": shape.side}, crop_size=square),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA,
    )
    return model, processor


def _make_qwen(shape: Shape) -> tuple[Any, Any]:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessorPil,
    )

    class WithoutVideos(Qwen2_5_VLProcessor):
        """The published processor without the part for videos, which needs torchvision."""

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name == "video_processor":
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

    tokenizer = make_tokenizer(QWEN_WORDS, words=shape.words, pad="<|endoftext|>", eos="<|im_end|>")
    size = {"shortest_edge": shape.side**2, "longest_edge": shape.side**2}
    grid = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}
    # As many of a head's pairs for time, height and width as in the published sizes: 16, 24, 24 of 64.
    eighth = shape.head // 16
    rope = {
        "rope_type": "default",
        "rope_theta": 1_000_000.0,
        "mrope_section": [2 * eighth, 3 * eighth, 3 * eighth],
    }
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            vision_config={
                "depth": shape.tower_blocks,
                "hidden_size": shape.tower_hidden,
                "intermediate_size": shape.tower_wide,
                "num_heads": shape.tower_heads,
                "out_hidden_size": shape.hidden,
                "patch_size": PATCH,
                "spatial_merge_size": MERGE,
                "temporal_patch_size": 2,
                "window_size": 8 * PATCH,
                "fullatt_block_indexes": [
                    number for number in range(shape.tower_blocks) if number % 8 == 7 % shape.tower_blocks
                ],
            },
            text_config={**_text(shape, tokenizer), "rope_parameters": rope},
            **{name: tokenizer.convert_tokens_to_ids(word) for name, word in names.items()},
        )
    )
    processor = WithoutVideos(
        image_processor=Qwen2VLImageProcessorPil(size=size, **grid),
        tokenizer=tokenizer,
        video_processor=None,
        chat_template=QWEN,
    )
    return model, processor

"""Tiny Mllama (Llama 3.2 Vision) and Llama 4."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    Llama4Config,
    Llama4ForConditionalGeneration,
    Llama4Processor,
    Llama4TextConfig,
    Llama4VisionConfig,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessorPil,
    MllamaProcessor,
)
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

from tests.conformance.parts import TEXT, TOWER, make_tokenizer, save, token_ids

SIDE, PATCH = 16, 8
SQUARE = {"height": SIDE, "width": SIDE}

# As published, without tools: a header with the day's date comes with a system line, and wherever there is no image.
MLLAMA = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}{%- set date_string = "26 Jul 2024" %}'
    "{%- endif %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'][0]['text'] | trim %}"
    "{%- set messages = messages[1:] %}{%- set user_supplied_system_message = true %}"
    "{%- else %}{%- set system_message = '' %}{%- set user_supplied_system_message = false %}{%- endif %}"
    "{% set image_ns = namespace(has_images=false) %}{%- for message in messages %}"
    "{%- for content in message['content'] %}{%- if content['type'] == 'image' %}"
    "{%- set image_ns.has_images = true %}{%- endif %}{%- endfor %}{%- endfor %}"
    "{%- if user_supplied_system_message or not image_ns.has_images %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}{{- 'Cutting Knowledge Date: December 2023\n' }}"
    "{{- 'Today Date: ' + date_string + '\n\n' }}{{- system_message }}{{- '<|eot_id|>' }}{%- endif %}"
    "{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{%- for content in message['content'] %}{%- if content['type'] == 'image' %}{{- '<|image|>' }}"
    "{%- elif content['type'] == 'text' %}{{- content['text'] }}{%- endif %}{%- endfor %}{{- '<|eot_id|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
LLAMA4 = (
    "{{- bos_token }}{%- if messages[0]['role'] == 'system' %}{{- '<|header_start|>system<|header_end|>\n\n' }}"
    "{{- messages[0]['content'][0]['text'] | trim }}{{- '<|eot|>' }}{%- set messages = messages[1:] %}{%- endif %}"
    "{%- for message in messages %}{{- '<|header_start|>' + message['role'] + '<|header_end|>\n\n' }}"
    "{%- for content in message['content'] %}{%- if content['type'] == 'image' %}{{- '<|image|>' }}"
    "{%- elif content['type'] == 'text' %}{{- content['text'] }}{%- endif %}{%- endfor %}{{- '<|eot|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|header_start|>assistant<|header_end|>\n\n' }}{%- endif %}"
)


def build_mllama(folder: Path) -> Path:
    """Mllama: five blocks, of which the second and the fourth attend to the image and are skipped without one."""
    tokenizer = make_tokenizer(
        ["<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>",
         "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"],
        pad="<|finetune_right_pad_id|>",
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
    )  # fmt: skip
    ids = token_ids(tokenizer)
    # The image's token comes after the vocabulary: it has an embedding, but no logit.
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|image|>"]})
    model = MllamaForConditionalGeneration(
        MllamaConfig(
            vision_config=MllamaVisionConfig(
                hidden_size=TOWER["hidden_size"],
                intermediate_size=TOWER["intermediate_size"],
                attention_heads=TOWER["num_attention_heads"],
                num_hidden_layers=2,
                num_global_layers=1,
                intermediate_layers_indices=[0],
                vision_output_dim=2 * TOWER["hidden_size"],
                image_size=SIDE,
                patch_size=PATCH,
            ),
            text_config=MllamaTextConfig(
                **{**TEXT, "num_hidden_layers": 5}, **ids, cross_attention_layers=[1, 3]
            ),
            image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
        )
    )
    processor = MllamaProcessor(
        image_processor=MllamaImageProcessorPil(size=SQUARE), tokenizer=tokenizer, chat_template=MLLAMA
    )
    return save(folder, model, processor)


def build_llama4(folder: Path) -> Path:
    """Llama 4: two experts, one block in two without positions; its images go through torchvision."""
    from transformers import Llama4ImageProcessor

    tokenizer = make_tokenizer(
        ["<|begin_of_text|>", "<|eot|>", "<|finetune_right_pad|>", "<|header_start|>", "<|header_end|>", "<|image|>",
         "<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>"],
        pad="<|finetune_right_pad|>",
        bos="<|begin_of_text|>",
        eos="<|eot|>",
    )  # fmt: skip
    model = Llama4ForConditionalGeneration(
        Llama4Config(
            vision_config=Llama4VisionConfig(
                # Four patches of the tower in one.
                **{**TOWER, "intermediate_size": 4 * TOWER["hidden_size"]},
                image_size=2 * SIDE,
                patch_size=PATCH,
                vision_output_dim=32,
                projector_input_dim=32,
                projector_output_dim=32,
            ),
            text_config=Llama4TextConfig(
                **TEXT,
                **token_ids(tokenizer),
                head_dim=8,
                intermediate_size_mlp=64,
                num_local_experts=2,
                interleave_moe_layer_step=2,
                no_rope_layer_interval=2,
                attention_chunk_size=16,
            ),
            boi_token_index=tokenizer.convert_tokens_to_ids("<|image_start|>"),
            eoi_token_index=tokenizer.convert_tokens_to_ids("<|image_end|>"),
            image_token_index=tokenizer.convert_tokens_to_ids("<|patch|>"),
        )
    )
    processor = Llama4Processor(
        image_processor=Llama4ImageProcessor(size={"height": 2 * SIDE, "width": 2 * SIDE}, max_patches=4),
        tokenizer=tokenizer,
        patch_size=PATCH,
        pixel_shuffle_ratio=0.5,
        chat_template=LLAMA4,
    )
    return save(folder, model, processor)

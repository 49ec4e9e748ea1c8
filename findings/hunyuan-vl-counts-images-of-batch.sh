#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0, Python 3.11 (Linux x86-64).
#
# One would guess: in HunYuanVL, the states of a prompt do not depend on which other prompts share its batch; its last
# rotary axis is "the ordinal of the image/frame in the input sequence, so all visual tokens from the first image get `0`"
# (docstring of `get_rope_index`).
# Seen: images are counted over the rows of the batch. The one image of the second row has ordinal 1, that of the third
# ordinal 2, and the logits of the same prompt differ by its place in the batch.
#
# Output seen:
#   ordinals of the one image in rows 0 to 2: [0], [1], [2]
#   logits of the same prompt, of row 0 against alone: equal
#   logits of the same prompt, of row 2 against alone: another by 0.0045 of their length
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>warnings.txt <<'PYTHON' || { tail -3 warnings.txt; echo "this has changed"; exit 1; }
import sys

import torch
from transformers import HunYuanVLConfig, HunYuanVLForConditionalGeneration

IMAGE, START, END, WORD = 3, 4, 5, 7
# One image of 4 × 4 patches, merged to 2 rows of 2 tokens with a token that ends the row, and two around them.
GRID, TOKENS = torch.tensor([[1, 4, 4]]), 2 * (2 + 1) + 2

torch.manual_seed(0)
config = HunYuanVLConfig(
    text_config={
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "head_dim": 8, "vocab_size": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 1, 1]},
    },
    vision_config={
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "patch_size": 8,
        "out_hidden_size": 32, "text_hidden_size": 32, "max_image_size": 64, "min_image_size": 16,
    },
    image_token_id=IMAGE, image_start_token_id=START, image_end_token_id=END,
)
model = HunYuanVLForConditionalGeneration(config).eval()
with torch.no_grad():
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.normal_(0, 0.25)

row = torch.tensor([[WORD, START] + [IMAGE] * TOKENS + [END, WORD, WORD + 1]])
kinds = (row == IMAGE).int()
pixels = torch.randn(16, 3 * 8 * 8)


def give(rows):
    """The same prompt with the same image, so many times."""
    return {
        "input_ids": row.repeat(rows, 1), "attention_mask": torch.ones_like(row).repeat(rows, 1),
        "mm_token_type_ids": kinds.repeat(rows, 1), "image_grid_thw": GRID.repeat(rows, 1),
        "pixel_values": pixels.repeat(rows, 1),
    }


given = give(3)
positions, _ = model.model.get_rope_index(
    given["input_ids"], given["mm_token_type_ids"], given["image_grid_thw"], given["attention_mask"]
)
# Without the marks around it, which keep the positions of text.
inside = slice(3, 3 + TOKENS - 2)
ordinals = [positions[-1, number, inside].unique().tolist() for number in range(3)]
print("ordinals of the one image in rows 0 to 2:", ", ".join(map(str, ordinals)))
with torch.no_grad():
    alone, together = model(**give(1)).logits[0, -1], model(**given).logits[:, -1]
errors = [float((one - alone).norm() / alone.norm()) for one in together]
for number in (0, 2):
    said = "equal" if errors[number] < 1e-5 else f"another by {errors[number]:.2g} of their length"
    print(f"logits of the same prompt, of row {number} against alone: {said}")
sys.exit(not (ordinals == [[0], [1], [2]] and errors[0] < 1e-5 and errors[2] > 1e-3))
PYTHON

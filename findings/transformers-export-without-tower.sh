#!/usr/bin/env bash
# transformers 5.23.0 with torch 2.13.0, numpy 2.4.6, Python 3.11 (Linux x86-64).
#
# One would guess: exporters.utils.decompose_for_generation, and export_for_generation on top of it, split a
# vision-language model as their docstring says: image encoder, projector, language model, head, decode step.
# Seen: of a LLaVA they give no image encoder and no projector, without a word. generate() runs the encoder before the first
# forward pass, whose inputs are taken, so these no longer hold pixels; parts that this pass does not run are left out.
# decompose_multimodal on the same inputs finds all of them.
#
# Output seen:
#   decompose_for_generation: decode, language_model, lm_head
#   decompose_multimodal: image_encoder, language_model, lm_head, multi_modal_projector
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 torch==2.13.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>warnings.txt <<'PYTHON' || { tail -3 warnings.txt; echo "this has changed"; exit 1; }
import sys

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.exporters.utils import decompose_for_generation, decompose_multimodal

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
torch.manual_seed(0)
model = LlavaForConditionalGeneration(
    LlavaConfig(
        vision_config=CLIPVisionConfig(**SIZES, image_size=16, patch_size=8),
        text_config=LlamaConfig(**SIZES, vocab_size=64),
        image_token_index=3,
        vision_feature_select_strategy="default",
    )
).eval()
tokens = torch.tensor([[1, 3, 3, 3, 3, 5, 6]])
inputs = {
    "input_ids": tokens,
    "attention_mask": torch.ones_like(tokens),
    "pixel_values": torch.rand(1, 3, 16, 16),
}
seen = []
for split in (decompose_for_generation, decompose_multimodal):
    seen.append(sorted(split(model, dict(inputs))))
    print(f"{split.__name__}: {', '.join(seen[-1])}")
whole = ["image_encoder", "language_model", "lm_head", "multi_modal_projector"]
sys.exit(seen != [["decode", "language_model", "lm_head"], whole])
PYTHON

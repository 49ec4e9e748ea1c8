#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0, Python 3.11 (Linux x86-64).
#
# One would guess: in Qwen2.5-VL, text behind a video has later positions than all of its frames, as the paper on Qwen2-VL
# describes M-RoPE, and a token has the same position whether a prompt is read at once or token by token with the KV cache.
# Seen: frames lie `tokens_per_second` × seconds apart, but the text goes on as many positions behind the video's
# beginning as its longer side in merged patches, however long the video is: it lies among the frames. A token that is
# generated with the cache lies behind all frames, and the same token in a pass without the cache among them.
#
# Output seen:
#   frames at 3, 5, 7, 9, 11, 13, 15, 17
#   text behind them at 5, 6, 7
#   the next token: 18 with the cache, 8 without
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>warnings.txt <<'PYTHON' || { tail -3 warnings.txt; echo "this has changed"; exit 1; }
import sys

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLModel

WORD, VIDEO = 7, 2
# Eight frames a second apart, of 4 × 4 patches, which are merged to 2 × 2.
GRID = torch.tensor([[8, 4, 4]])

config = Qwen2_5_VLConfig(
    text_config={
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "vocab_size": 64,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
    },
    vision_config={
        "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32,
        "tokens_per_second": 2, "fullatt_block_indexes": [0],
    },
)
model = Qwen2_5_VLModel(config).eval()


def place(behind):
    """Positions along time, height and width of 3 words, the video, and so many words; and what decoding adds."""
    kinds = torch.tensor([[0] * 3 + [VIDEO] * 32 + [0] * behind])
    positions, delta = model.get_rope_index(
        torch.full_like(kinds, WORD), kinds, video_grid_thw=GRID, second_per_grid_ts=torch.ones(1)
    )
    return positions[:, 0], kinds.shape[1] + int(delta)


positions, cached = place(3)
frames = positions[0, 3:35].unique().tolist()
text = positions[:, 35:]
without = place(4)[0][0, -1].item()
print("frames at", ", ".join(map(str, frames)))
print("text behind them at", ", ".join(map(str, text[0].tolist())))
print(f"the next token: {cached} with the cache, {without} without")
alike = bool((text == text[0]).all())
sys.exit(not (alike and frames[-1] == 17 and text[0].tolist() == [5, 6, 7] and (cached, without) == (18, 8)))
PYTHON

#!/usr/bin/env bash
# transformers 5.23.0 with torch 2.13.0, safetensors 0.8.0, numpy 2.4.6, Python 3.11 (Linux x86-64).
#
# One would guess: a config field that a checkpoint states, with weights that go with it, is either used or refused.
# Seen: a Mistral or Qwen2 checkpoint with `mlp_bias: true` and biases of its MLPs loads without an error, and computes
# exactly what it computes without them; only Llama reads the field. What tells is the load report among the warnings,
# which lists them as unexpected and says that this "can be ignored when loading from different task/architecture", and
# output_loading_info=True. So a bias that was baked in to change a model's answers may do nothing.
#
# Output seen:
#   llama: unexpected keys 0, logits moved by a bias of 1: True
#   mistral: unexpected keys 2, logits moved by a bias of 1: False
#   qwen2: unexpected keys 2, logits moved by a bias of 1: False
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    transformers==5.23.0 torch==2.13.0 safetensors==0.8.0 numpy==2.4.6
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>warnings.txt <<'PYTHON' || { tail -3 warnings.txt; echo "this has changed"; exit 1; }
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TOKENS = torch.arange(8)[None]
seen = {}
for config in (LlamaConfig(**SIZES), MistralConfig(**SIZES), Qwen2Config(**SIZES)):
    kind = config.model_type
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(config).eval()
    plain.save_pretrained(kind)
    weights = load_file(f"{kind}/model.safetensors")
    for block in range(2):
        # Llama wants biases of all three.
        for name, size in (("gate_proj", 48), ("up_proj", 48)) if kind == "llama" else ():
            weights[f"model.layers.{block}.mlp.{name}.bias"] = torch.zeros(size)
        weights[f"model.layers.{block}.mlp.down_proj.bias"] = torch.linspace(-1, 1, 32)
    save_file(weights, f"{kind}/model.safetensors", metadata={"format": "pt"})
    path = Path(kind, "config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "mlp_bias": True}))
    biased, found = AutoModelForCausalLM.from_pretrained(kind, output_loading_info=True)
    with torch.no_grad():
        moved = not torch.equal(biased.eval()(TOKENS).logits, plain(TOKENS).logits)
    seen[kind] = (len(found["unexpected_keys"]), moved)
    print(f"{kind}: unexpected keys {len(found['unexpected_keys'])}, logits moved by a bias of 1: {moved}")
sys.exit(seen != {"llama": (0, True), "mistral": (2, False), "qwen2": (2, False)})
PYTHON

#!/usr/bin/env bash
# transformers 5.23.0 with peft 0.21.2, torch 2.13.0, Python 3.11 (Linux x86-64).
#
# One would guess: model.load_adapter(folder), by which transformers takes an adapter that peft saved, gives the model that
# was saved, as it does for LoRA; or it raises.
# Seen: of a DoRA adapter (use_dora=True) it takes the two matrices and not the magnitudes, which it looks for under another
# name. They stay as the base weights make them; a table in the log says so, and answers are those of another model.
#
# Output seen:
#   LoRA, by PeftModel.from_pretrained: as saved
#   LoRA, by load_adapter of transformers: as saved
#   DoRA, by PeftModel.from_pretrained: as saved
#   DoRA, by load_adapter of transformers: logits differ
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 peft==0.21.2
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>warnings.txt <<'PYTHON' || { tail -3 warnings.txt; echo "this has changed"; exit 1; }
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

TOKENS = torch.tensor([[1, 5, 9, 3]])

torch.manual_seed(0)
LlamaForCausalLM(
    LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=64)
).save_pretrained("base")


def make():
    return LlamaForCausalLM.from_pretrained("base")


def read(model):
    with torch.inference_mode():
        return model.eval()(TOKENS).logits


def load(folder):
    model = make()
    model.load_adapter(folder)
    return model


seen = []
for name in ("LoRA", "DoRA"):
    settings = LoraConfig(r=4, use_dora=name == "DoRA", init_lora_weights=False, target_modules=["q_proj", "down_proj"])
    trained = get_peft_model(make(), settings)
    with torch.no_grad():
        for parameter, weight in trained.named_parameters():
            if "magnitude" in parameter:
                weight.mul_(1.5)
    trained.save_pretrained(name)
    expected = read(trained)
    assert not torch.allclose(expected, read(make()), atol=1e-3)
    for what, model in (
        ("PeftModel.from_pretrained", PeftModel.from_pretrained(make(), name)),
        ("load_adapter of transformers", load(name)),
    ):
        same = torch.allclose(read(model), expected, atol=1e-5)
        print(f"{name}, by {what}: {'as saved' if same else 'logits differ'}")
        seen.append(same)
sys.exit(seen != [True, True, True, False])
PYTHON

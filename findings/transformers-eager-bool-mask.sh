#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0, Python 3.11 (Linux x86-64); a Llama of two blocks with random weights.
#
# One would guess: a 4-D attention mask of bool (true: this token is seen), which a model takes, means the same under each
# attention implementation, or is refused by one that cannot read it.
# Seen: under `sdpa` it is read so. Under `eager` it is added to the attention scores as 0 and 1: nothing is masked out, tokens
# see those behind them, and the logits are others, without an error or a warning. So it is with 0 and 1 as integers, which
# `sdpa` refuses. Both take a mask of 0 and of the lowest number of the dtype, which is added.
#
# Output seen, the logits against those without a mask, where the mask is the causal one:
#   sdpa: bool equal, int64 RuntimeError, added equal
#   eager: bool 0.67 of their length apart, int64 0.67 of their length apart, added equal
#   the first token's logits with other tokens behind it, eager with bool: 0.95 of their length apart
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>warnings.txt <<'PYTHON' || { tail -3 warnings.txt; echo "this has changed"; exit 1; }
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
).eval()
with torch.no_grad():
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.normal_(0, 0.25)
row, other = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[1, 9, 8, 7, 6]])
seen = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
masks = {
    "bool": seen,
    "int64": seen.long(),
    "added": torch.where(seen, 0.0, torch.finfo(torch.float32).min),
}


def read(ids, mask):
    with torch.no_grad():
        return model(ids, attention_mask=mask).logits[0]


def compare(one, two):
    return float((one - two).norm() / one.norm())


def tell(apart):
    return "equal" if apart < 1e-5 else f"{apart:.2g} of their length apart"


found = {}
for attention in ("sdpa", "eager"):
    model.set_attn_implementation(attention)
    plain = read(row, None)
    for name, mask in masks.items():
        try:
            found[attention, name] = compare(plain, read(row, mask))
        except RuntimeError as error:
            found[attention, name] = error
    said = [
        f"{name} {tell(apart) if isinstance(apart, float) else type(apart).__name__}"
        for (of, name), apart in found.items()
        if of == attention
    ]
    print(f"{attention}: {', '.join(said)}")
behind = compare(read(row, seen)[0], read(other, seen)[0])
print(f"the first token's logits with other tokens behind it, eager with bool: {tell(behind)}")
kinds = {key: "refused" if isinstance(apart, Exception) else apart > 1e-2 for key, apart in found.items()}
sys.exit(
    not (
        kinds
        == {
            ("sdpa", "bool"): False,
            ("sdpa", "int64"): "refused",
            ("sdpa", "added"): False,
            ("eager", "bool"): True,
            ("eager", "int64"): True,
            ("eager", "added"): False,
        }
        and behind > 1e-2
    )
)
PYTHON

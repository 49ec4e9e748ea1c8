#!/usr/bin/env bash
# transformers 5.23.0 with torch 2.13.0, Python 3.11 (Linux x86-64); a Llama of four blocks with random weights.
#
# One would guess: hidden_states[2] is what block 1 gives to block 2, also where a user's forward hook changes it, and
# an earlier call with output_hidden_states=True leaves nothing behind.
# Seen: the first such call registers forward hooks on the blocks, which stay there. A user's hook that was registered
# before that call runs before them, and hidden_states[2] holds the changed state. One that is registered after it runs
# after them, and hidden_states[2] holds the state before the change, while block 2 is given the changed one: all later
# entries follow from a state that is not in the list. With prepend=True it is in the list again.
#
# Output seen, as the mean distance from the unchanged state, where the hook adds 1 to the output of block 1:
#   hook, then the first call: block 2 was given +1.0, hidden_states[2] is +1.0
#   a call, then hook: block 2 was given +1.0, hidden_states[2] is +0.0
#   a call, then hook with prepend=True: block 2 was given +1.0, hidden_states[2] is +1.0
#   hooks on block 1 after a call: 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 torch==2.13.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>warnings.txt <<'PYTHON' || { tail -3 warnings.txt; echo "this has changed"; exit 1; }
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

TOKENS = torch.tensor([[1, 2, 3]])


def make():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


def read(model):
    with torch.no_grad():
        return model(TOKENS, output_hidden_states=True).hidden_states


def steer(model, **options):
    """Add 1 to the output of block 1; what block 2 was given and hidden_states[2], from the unchanged state."""
    given = []
    model.model.layers[1].register_forward_hook(lambda _block, _args, output: output + 1, **options)
    model.model.layers[2].register_forward_pre_hook(lambda _block, args: given.append(args[0]))
    states = read(model)
    return tuple(round(float((one - plain).mean()), 3) for one in (given[0], states[2]))


plain = read(make())[2]
first, later, prepended = make(), make(), make()
seen = {"hook, then the first call": steer(first)}
read(later)
hooks = len(later.model.layers[1]._forward_hooks)
seen["a call, then hook"] = steer(later)
read(prepended)
seen["a call, then hook with prepend=True"] = steer(prepended, prepend=True)
for name, (given, listed) in seen.items():
    print(f"{name}: block 2 was given {given:+}, hidden_states[2] is {listed:+}")
print(f"hooks on block 1 after a call: {hooks}")
sys.exit([*seen.values()] != [(1.0, 1.0), (1.0, 0.0), (1.0, 1.0)] or hooks != 1)
PYTHON

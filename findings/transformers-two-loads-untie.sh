#!/usr/bin/env bash
# transformers 5.23.0, torch 2.13.0, Python 3.11 (Linux x86-64).
#
# One would guess: two threads of a process can each load a model with from_pretrained, as they can read two files.
# Seen: for its time, loading replaces PreTrainedModel.tie_weights in the whole process by a function that does nothing. Of
# two loads that overlap, the one that began second and ends last puts back what it found, which is that function. From
# then on no model of the process has its head tied to its embeddings: one that is loaded from files without a head of its
# own is reported to lack it, and one that is made has two matrices.
#
# Output seen:
#   before: tied
#   two loads, one after the other: tied
#   two loads that overlap: not tied; loading once more reports missing keys ['lm_head.weight']
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>warnings.txt <<'PYTHON' || { tail -3 warnings.txt; echo "this has changed"; exit 1; }
import sys
from threading import Event, Thread

from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = LlamaConfig(
    hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=16, tie_word_embeddings=True
)
LlamaForCausalLM(CONFIG).save_pretrained("model")


class First(LlamaForCausalLM):
    """Waits within its load until the other one has begun."""

    begun, other = Event(), Event()

    def __init__(self, config):
        self.begun.set()
        self.other.wait(60)
        super().__init__(config)


class Second(LlamaForCausalLM):
    """Waits within its load until the first one has ended."""

    begun, other = Event(), Event()

    def __init__(self, config):
        self.begun.set()
        self.other.wait(60)
        super().__init__(config)


def load(kind=LlamaForCausalLM):
    return kind.from_pretrained("model", output_loading_info=True)[1]["missing_keys"]


def tell():
    model = LlamaForCausalLM(CONFIG)
    return "tied" if model.lm_head.weight is model.model.embed_tokens.weight else "not tied"


before = tell()
print("before:", before)
load()
load()
apart = tell()
print("two loads, one after the other:", apart)
first, second = Thread(target=load, args=(First,)), Thread(target=load, args=(Second,))
first.start()
First.begun.wait(60)
second.start()
Second.begun.wait(60)
First.other.set()
first.join()
Second.other.set()
second.join()
after, missing = tell(), sorted(load())
print(f"two loads that overlap: {after}; loading once more reports missing keys {missing}")
sys.exit((before, apart, after, missing) != ("tied", "tied", "not tied", ["lm_head.weight"]))
PYTHON

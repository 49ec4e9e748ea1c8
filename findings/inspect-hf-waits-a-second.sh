#!/usr/bin/env bash
# inspect-ai 0.3.285 with transformers 5.23.0 and torch 2.13.0, Python 3.11 (Linux x86-64); a Llama of two blocks with random weights.
#
# One would guess: samples that a local `hf` model answers in one batch are there when the batch is, so more at once are no slower.
# Seen: a sample whose answer is not there within 10 ms is looked for again after a second. Four samples one at a time take
# hundredths of a second each; the same four at once, in a batch that takes no longer, a second. Each turn of a conversation pays it
# again, and a fast model seems as slow as one that needs a second.
#
# Output seen:
#   one at a time: longest answer under half a second
#   four at once: longest answer a second or more
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check inspect-ai==0.3.285 transformers==5.23.0 torch==2.13.0 accelerate==1.15.0
cd "$folder"
HF_HUB_OFFLINE=1 venv/bin/python - 2>warnings.txt <<'PYTHON' || { tail -3 warnings.txt; echo "this has changed"; exit 1; }
import sys
from importlib.metadata import version

import inspect_ai
import torch
from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.solver import generate
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

words = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", *"abcdefgh"])}
plain = Tokenizer(WordLevel(words, unk_token="<unk>"))
plain.pre_tokenizer = Whitespace()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
)
tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
tokenizer.save_pretrained("model")
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
)
LlamaForCausalLM(config).save_pretrained("model")


def ask(at_once):
    """Answer four samples; return the seconds from each question to its answer, by Inspect's own events."""
    settings = GenerateConfig(max_tokens=4, max_connections=at_once)
    model = get_model("hf/model", model_path="model", memoize=False, config=settings)
    samples = [Sample(id=number, input="a b c") for number in range(1, 5)]
    (log,) = inspect_ai.eval(
        Task(dataset=samples, solver=generate()), model=model, log_dir="logs", display="none"
    )
    assert log.status == "success", log.error
    events = [event for sample in log.samples for event in sample.events if event.event == "model"]
    return [(event.completed - event.timestamp).total_seconds() for event in events]


print(f"inspect-ai {version('inspect-ai')}, transformers {version('transformers')}, torch {torch.__version__}")
ask(1)
alone, together = max(ask(1)), max(ask(4))
seen = [
    f"one at a time: longest answer {'under half a second' if alone < 0.5 else 'half a second or more'}",
    f"four at once: longest answer {'a second or more' if together >= 1 else 'under a second'}",
]
print("\n".join(seen))
print(f"seconds: {alone:.3f} and {together:.3f}", file=sys.stderr)
sys.exit(
    seen
    != [
        "one at a time: longest answer under half a second",
        "four at once: longest answer a second or more",
    ]
)
PYTHON

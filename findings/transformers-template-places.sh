#!/usr/bin/env bash
# transformers 5.23.0, tokenizers 0.23.3, Pillow 12.3.0, Python 3.11 (Linux x86-64); no torch is needed.
#
# One would guess: a folder of a vision-language model has one chat template, whoever reads it, or at least an order of places
# that processor and tokenizer share.
# Seen: where `chat_template.json` and `chat_template.jinja` are both there, the processor takes the first and the tokenizer
# the second, its own one inside that very processor included; a template in `tokenizer_config.json` alone is the
# tokenizer's, and the processor has none. Nothing is logged. So an engine that asks the tokenizer and one that asks
# the processor format the prompts of one folder differently.
#
# Output seen:
#   chat_template.json: AutoProcessor json, its tokenizer None, AutoTokenizer None
#   chat_template.json and chat_template.jinja: AutoProcessor json, its tokenizer jinja, AutoTokenizer jinja
#   tokenizer_config.json: AutoProcessor None, its tokenizer config, AutoTokenizer config
#   chat_template.json and tokenizer_config.json: AutoProcessor json, its tokenizer config, AutoTokenizer config
#   chat_template.jinja and tokenizer_config.json: AutoProcessor jinja, its tokenizer jinja, AutoTokenizer jinja
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3 pillow==12.3.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>warnings.txt <<'PYTHON' || { tail -3 warnings.txt; echo "this has changed"; exit 1; }
import json
import sys
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import AutoProcessor, AutoTokenizer, CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

words = Tokenizer(models.WordLevel({"<unk>": 0, "<image>": 1}, unk_token="<unk>"))
PROCESSOR = LlavaProcessor(CLIPImageProcessorPil(), PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>"))


def write(place, folder):
    path = folder / place
    if place == "chat_template.jinja":
        path.write_text("jinja")
        return
    known = json.loads(path.read_text()) if path.exists() else {}
    word = "config" if place == "tokenizer_config.json" else "json"
    path.write_text(json.dumps({**known, "chat_template": word}))


told = []
for places in (
    ["chat_template.json"],
    ["chat_template.json", "chat_template.jinja"],
    ["tokenizer_config.json"],
    ["chat_template.json", "tokenizer_config.json"],
    ["chat_template.jinja", "tokenizer_config.json"],
):
    with tempfile.TemporaryDirectory() as name:
        PROCESSOR.save_pretrained(name)
        for place in places:
            write(place, Path(name))
        processor, tokenizer = AutoProcessor.from_pretrained(name), AutoTokenizer.from_pretrained(name)
        told.append(
            f"{' and '.join(places)}: AutoProcessor {processor.chat_template}, its tokenizer "
            f"{processor.tokenizer.chat_template}, AutoTokenizer {tokenizer.chat_template}"
        )
print("\n".join(told))
sys.exit(
    told
    != [
        "chat_template.json: AutoProcessor json, its tokenizer None, AutoTokenizer None",
        "chat_template.json and chat_template.jinja: AutoProcessor json, its tokenizer jinja, AutoTokenizer jinja",
        "tokenizer_config.json: AutoProcessor None, its tokenizer config, AutoTokenizer config",
        "chat_template.json and tokenizer_config.json: AutoProcessor json, its tokenizer config, AutoTokenizer config",
        "chat_template.jinja and tokenizer_config.json: AutoProcessor jinja, its tokenizer jinja, AutoTokenizer jinja",
    ]
)
PYTHON

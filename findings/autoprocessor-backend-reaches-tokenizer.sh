#!/usr/bin/env bash
# transformers 5.23.0 with tokenizers 0.23.3, pillow 13.0.0, jinja2 3.1.6, Python 3.11 (Linux x86-64).
#
# One would guess: AutoProcessor.from_pretrained(folder, backend="pil") chooses what images are resized with, as the
# same argument does for AutoImageProcessor, and leaves the tokenizer as it is.
# Seen: the tokenizer takes the word too. It encodes as before, but says that its backend is "pil", keeps that in what
# it saves, and so counts as a slow one: apply_chat_template(return_assistant_tokens_mask=True), with which chats are
# prepared for training, is refused with the advice to install tokenizers. A processor that was saved is so for good.
#
# Output seen:
#   no argument: tokenizers, masks [0, 1, 1]
#   backend="pil": pil, ValueError: `return_assistant_tokens_mask` is not possible with slow tokenizers
#   saved and loaded without the argument: pil, ValueError: `return_assistant_tokens_mask` is not possible with slow tokenizers
#   only the image processor replaced: tokenizers, masks [0, 1, 1]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    transformers==5.23.0 tokenizers==0.23.3 pillow==13.0.0 jinja2==3.1.6
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>warnings.txt <<'PYTHON' || { tail -3 warnings.txt; echo "this has changed"; exit 1; }
import sys

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoImageProcessor, AutoProcessor, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content[0].text }}{% endgeneration %}"
    "{% else %}{{ m.content[0].text }} {% endif %}{% endfor %}"
)
CHAT = [
    {"role": "user", "content": [{"type": "text", "text": "moon"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "sun sun"}]},
]

words = Tokenizer(
    models.WordLevel({"<pad>": 0, "</s>": 1, "<image>": 2, "moon": 3, "sun": 4}, unk_token="<pad>")
)
words.pre_tokenizer = pre_tokenizers.Whitespace()
LlavaProcessor(
    image_processor=CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}),
    tokenizer=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>"),
    patch_size=4,
    vision_feature_select_strategy="default",
).save_pretrained("model")


def tell(what, processor):
    try:
        made = processor.apply_chat_template(
            CHAT,
            chat_template=TEMPLATE,
            tokenize=True,
            return_dict=True,
            processor_kwargs={},
            return_assistant_tokens_mask=True,
        )
        found = f"masks {made['assistant_masks'][0]}"
    except ValueError as error:
        found = f"ValueError: {str(error).partition('.')[0]}"
    print(f"{what}: {processor.tokenizer.backend}, {found}")
    return found


plain = tell("no argument", AutoProcessor.from_pretrained("model"))
chosen = AutoProcessor.from_pretrained("model", backend="pil")
asked = tell('backend="pil"', chosen)
chosen.save_pretrained("saved")
saved = tell("saved and loaded without the argument", AutoProcessor.from_pretrained("saved"))
apart = AutoProcessor.from_pretrained("model")
apart.image_processor = AutoImageProcessor.from_pretrained("model", backend="pil")
replaced = tell("only the image processor replaced", apart)
sys.exit(not (plain == replaced == "masks [0, 1, 1]" and asked == saved and asked.startswith("ValueError")))
PYTHON

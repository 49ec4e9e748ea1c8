#!/usr/bin/env bash
# transformers 5.23.0 with torch 2.13.0, pillow 13.0.0, Python 3.11 (Linux x86-64); an Mllama (Llama 3.2 Vision) of three blocks
# with random weights, behind its own processor.
#
# One would guess: the tokens before an image do not see it. The processor's `cross_attention_mask` is 0 there, and language
# models are causal. So nothing before the image depends on it, and no prompt on the images of another row.
# Seen: where a row of the mask is all 0, the model sets it to "attend to everything", and leaves out the MLP of the block alone,
# not its attention. Text before the first image sees all images of its prompt, and also the empty ones with which a prompt is
# filled up to the number of images of another in its batch: its states, and from the next block on those of its last token,
# are other than alone.
#
# Output seen:
#   cross_attention_mask of the tokens before the image: all 0
#   their states with another image: 0.12 of their length apart
#   the last token's state, beside a prompt of one image: as alone
#   the last token's state, beside a prompt of two images: 0.03 of its length apart
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 pillow==13.0.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>warnings.txt <<'PYTHON' || { tail -3 warnings.txt; echo "this has changed"; exit 1; }
import sys

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaProcessor, PreTrainedTokenizerFast
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

WORDS = ["<pad>", "<bos>", "<|image|>", "look", "at", "this", "and", "what", "is", "it"]
# Of as many tokens, so that nothing is padded but the images.
ONE, TWO = "<bos> look at this <|image|> what is it", "<bos> look at <|image|> and <|image|> is it"
BEFORE = slice(0, 4)

words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<pad>"))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
processor = MllamaProcessor(
    image_processor=MllamaImageProcessorPil(size={"height": 16, "width": 16}),
    tokenizer=PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<bos>", extra_special_tokens={"image_token": "<|image|>"}
    ),
)
torch.manual_seed(0)
model = MllamaForConditionalGeneration(
    MllamaConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "attention_heads": 4, "num_hidden_layers": 2, "num_global_layers": 1,
            "intermediate_layers_indices": [0], "vision_output_dim": 64, "image_size": 16, "patch_size": 8,
        },
        text_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 16, "cross_attention_layers": [1], "pad_token_id": 0, "bos_token_id": 1,
            "eos_token_id": 1,
        },
        image_token_index=2,
    )
).eval()
with torch.no_grad():
    for name, weight in model.named_parameters():
        # New gates are 0 and shut the image out; trained ones are not.
        if weight.ndim > 1 or "gate" in name:
            weight.normal_(0, 0.25)
images = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)) for seed in range(4)
]


def read(texts, shown):
    """The states of the first prompt at the output of the last block, before the norm."""
    found = []
    given = processor(text=texts, images=shown, padding=True, return_tensors="pt")
    block = model.model.language_model.layers[-1]
    hook = block.register_forward_hook(lambda _block, _args, output: found.append(output[0]))
    with torch.no_grad():
        model(**given)
    hook.remove()
    return given["cross_attention_mask"], found[0]


def compare(one, other):
    return float((one - other).norm() / one.norm())


def tell(apart, equal, whose):
    return equal if apart < 1e-5 else f"{apart:.2g} of {whose} length apart"


mask, alone = read([ONE], [[images[0]]])
_, other = read([ONE], [[images[1]]])
_, beside_one = read([ONE, ONE], [[images[0]], [images[2]]])
_, beside_two = read([ONE, TWO], [[images[0]], [images[2], images[3]]])
hidden = not mask[:, BEFORE].any()
before = compare(alone[BEFORE], other[BEFORE])
last = [compare(alone[-1], states[-1]) for states in (beside_one, beside_two)]
print(f"cross_attention_mask of the tokens before the image: {'all 0' if hidden else 'not all 0'}")
print(f"their states with another image: {tell(before, 'equal', 'their')}")
for count, apart in zip(("one image", "two images"), last):
    print(f"the last token's state, beside a prompt of {count}: {tell(apart, 'as alone', 'its')}")
sys.exit(not (hidden and before > 0.05 and last[0] < 1e-5 and last[1] > 1e-3))
PYTHON

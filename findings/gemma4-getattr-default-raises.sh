#!/usr/bin/env bash
# transformers 5.23.0, Python 3.11 (Linux x86-64); no torch is needed.
#
# One would guess: `getattr(config, "head_dim", None)`, by which engines and scripts size a KV cache, gives a number or the
# default, and `hasattr` gives true or false, whatever the model type.
# Seen: a Gemma 4 text config holds `head_dim` for each layer (its full-attention layers have heads twice as wide), and
# both calls raise an error that is no AttributeError, so that neither a default nor `hasattr` helps. The values are at
# `config.per_layer_config[i].head_dim`, and `to_dict()` still shows one number, that of the sliding layers.
#
# Output seen:
#   gemma3_text: getattr 256, hasattr True
#   gemma4_text: getattr AmbiguousGlobalPerLayerAttributeError, hasattr AmbiguousGlobalPerLayerAttributeError
#   gemma4_text: an AttributeError False, by layer [256, 512], to_dict 256
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>warnings.txt <<'PYTHON' || { tail -3 warnings.txt; echo "this has changed"; exit 1; }
import sys

from transformers import Gemma3TextConfig, Gemma4TextConfig


def try_to(ask):
    try:
        return ask()
    except Exception as error:
        return error


def tell(answer):
    return type(answer).__name__ if isinstance(answer, Exception) else str(answer)


told = []
for config in (Gemma3TextConfig(), Gemma4TextConfig()):
    found = try_to(lambda: getattr(config, "head_dim", None))
    known = try_to(lambda: hasattr(config, "head_dim"))
    told.append(f"{config.model_type}: getattr {tell(found)}, hasattr {tell(known)}")
layers = sorted({one.head_dim for one in config.per_layer_config})
told.append(
    f"{config.model_type}: an AttributeError {isinstance(found, AttributeError)}, by layer {layers}, "
    f"to_dict {config.to_dict()['head_dim']}"
)
print("\n".join(told))
raised = "AmbiguousGlobalPerLayerAttributeError"
sys.exit(
    told
    != [
        "gemma3_text: getattr 256, hasattr True",
        f"gemma4_text: getattr {raised}, hasattr {raised}",
        "gemma4_text: an AttributeError False, by layer [256, 512], to_dict 256",
    ]
)
PYTHON

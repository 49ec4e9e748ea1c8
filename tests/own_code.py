"""A model folder that brings its own code: the random LLaVA under a type of its own, whose logits are turned around."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText

TYPE = "turned_llava"
CONFIGURATION = f"""
from transformers import LlavaConfig

class TurnedLlavaConfig(LlavaConfig):
    model_type = "{TYPE}"
"""
MODELING = """
from functools import wraps

from transformers import LlavaForConditionalGeneration

from .configuration_turned import TurnedLlavaConfig
from .turning import turn

class TurnedLlava(LlavaForConditionalGeneration):
    config_class = TurnedLlavaConfig

    # What generate() may hand on is read off the arguments' names.
    @wraps(LlavaForConditionalGeneration.forward)
    def forward(self, *arguments, **more):
        output = super().forward(*arguments, **more)
        output.logits = turn(output.logits)
        return output
"""
TURNING = """
def turn(logits):
    return -logits
"""


def bring_code(folder: Path) -> Path:
    """Turn a folder with a LLaVA into one that cannot be loaded without the code that it holds."""
    # transformers gives the weights of its own types other names in files than in memory.
    weights = AutoModelForImageTextToText.from_pretrained(folder).state_dict()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "configuration_turned.py").write_text(CONFIGURATION)
    (folder / "modeling_turned.py").write_text(MODELING)
    (folder / "turning.py").write_text(TURNING)
    edit_config(
        folder,
        model_type=TYPE,
        architectures=["TurnedLlava"],
        auto_map={
            "AutoConfig": "configuration_turned.TurnedLlavaConfig",
            "AutoModelForImageTextToText": "modeling_turned.TurnedLlava",
        },
    )
    return folder


def edit_config(folder: Path, **fields: object) -> None:
    """Fields of its config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))

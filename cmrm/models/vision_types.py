"""Which models take images: what transformers maps to image-text-to-text, read without importing it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cmrm.models.remote_code import AUTO_MAP

# The class of transformers under which a model's own code is registered, and the table of the types that it knows.
AUTO_CLASS = "AutoModelForImageTextToText"
MAPPING = "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING"
_TABLE = re.compile(
    r"^MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES = OrderedDict\(\s*\[(.*?)^\s*\]", re.MULTILINE | re.DOTALL
)
_ENTRY = re.compile(r'\(\s*"([\w.-]+)",')
# Fields of a config that hold the image's placeholder token.
_TOKENS = ("image_token_id", "image_token_index")


def takes_images(config: Mapping[str, Any]) -> bool:
    """Whether the `config.json` of a model says that it takes images.

    It has a vision tower or an image token, or its type or its own code is one that turns images and text to text.
    """
    named = config.get(AUTO_MAP)
    return (
        "vision_config" in config
        or any(isinstance(config.get(name), int) for name in _TOKENS)
        or (isinstance(named, Mapping) and AUTO_CLASS in named)
        or is_image_text_type(str(config.get("model_type")))
    )


def is_image_text_type(model_type: str) -> bool:
    """Whether transformers has an image-text-to-text model of a type, its own or one that this process registered."""
    return model_type in list_image_text_types() or is_registered(model_type)


def is_registered(model_type: str) -> bool:
    """Whether this process registered an image-text-to-text class of its own for a type."""
    loaded = sys.modules.get("transformers.models.auto.modeling_auto")
    registered = getattr(getattr(loaded, MAPPING, None), "_extra_content", {})
    return any(getattr(config, "model_type", None) == model_type for config in registered)


@cache
def list_image_text_types() -> frozenset[str]:
    """List the model types that transformers maps to image-text-to-text; importing its table would import torch."""
    spec = find_spec("transformers")
    if spec is None or not spec.origin:
        return frozenset()
    file = Path(spec.origin).parent / "models" / "auto" / "modeling_auto.py"
    found = _TABLE.search(file.read_text(encoding="utf-8")) if file.is_file() else None
    return frozenset(() if found is None else _ENTRY.findall(found.group(1)))

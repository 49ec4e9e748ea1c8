"""Which models take images: what transformers maps to image-text-to-text, read without importing it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cmrm.models.remote_code import AUTO_MAP

# The class of transformers under which a model's own code is registered, and the table of the types that it knows.
AUTO_CLASS = "AutoModelForImageTextToText"
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
        or config.get("model_type") in list_image_text_types()
    )


@cache
def list_image_text_types() -> frozenset[str]:
    """List the model types that transformers maps to image-text-to-text; importing its table would import torch."""
    spec = find_spec("transformers")
    if spec is None or not spec.origin:
        return frozenset()
    file = Path(spec.origin).parent / "models" / "auto" / "modeling_auto.py"
    found = _TABLE.search(file.read_text(encoding="utf-8")) if file.is_file() else None
    return frozenset(() if found is None else _ENTRY.findall(found.group(1)))

"""What counts as a model that takes images: by its type, its config, or its own code."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from cmrm.models.vision_types import list_image_text_types, takes_images


def test_the_types_are_those_of_transformers_own_table() -> None:
    assert list_image_text_types() == set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def test_they_are_listed_without_importing_torch() -> None:
    code = (
        "import sys; from cmrm.models.vision_types import list_image_text_types as types; assert len(types()) > 50;"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "config",
    [
        # Types of transformers without a `vision_config`.
        {"model_type": "chameleon"},
        {"model_type": "fuyu"},
        {"model_type": "later", "vision_config": {}},
        {"model_type": "later", "image_token_id": 5},
        {"model_type": "later", "auto_map": {"AutoModelForImageTextToText": "modeling_later.Later"}},
    ],
)
def test_a_model_that_takes_images_is_told_by_any_of_its_signs(config: dict[str, Any]) -> None:
    assert takes_images(config)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"model_type": "llama"},
        {"model_type": "later", "auto_map": {"AutoModelForCausalLM": "modeling_later.Later"}},
    ],
)
def test_a_model_of_text_alone_has_none_of_them(config: dict[str, Any]) -> None:
    assert not takes_images(config)

"""An image is the same pixels and its states have the same key, whether or not torchvision can be imported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPImageProcessorPil, LlavaNextImageProcessorPil, Qwen2VLImageProcessorPil

from cmrm.organism.places import resolve_organism_model
from tests.conformance.builders import BUILDERS
from tests.conformance.examining import run_elsewhere
from tests.conformance.pixels import digest_pixels, make_noise, show_image, show_judge

PILLOW = f"pillow {version('pillow')}"
Shown = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("backends")
    return {
        "llava_next": BUILDERS["llava_next"](home / "llava_next"),
        # Built by the other process, since its processor of videos needs torchvision.
        "qwen2_vl": home / "qwen2_vl",
        "organism": resolve_organism_model("organism"),
    }


@pytest.fixture(scope="module")
def shown(folders: Mapping[str, Path], conformance_folder: Path) -> Shown:
    """What a process that can import torchvision makes of the image, by the folder's name."""
    found = json.loads(
        run_elsewhere(conformance_folder, "tests.conformance.pixels", *map(str, folders.values()))
    )
    return {name: found[str(folder)] for name, folder in folders.items()}


def use_pillow(kind: Any, folder: Path) -> str:
    """The digest of the pixels by transformers' Pillow class itself."""
    return digest_pixels(kind.from_pretrained(folder)(make_noise(), return_tensors="np")["pixel_values"])


@pytest.mark.parametrize(
    ("name", "kind"), [("llava_next", LlavaNextImageProcessorPil), ("organism", CLIPImageProcessorPil)]
)
def test_pixels_and_keys_are_the_same_with_torchvision_and_without(
    folders: Mapping[str, Path], shown: Shown, name: str, kind: Any
) -> None:
    here = show_image(folders[name], "auto")
    assert here == shown[name]["auto"]
    assert here["backend"] == PILLOW
    assert here["pixels"] == use_pillow(kind, folders[name])


def test_a_processor_that_needs_torchvision_for_videos_resizes_images_by_pillow(
    folders: Mapping[str, Path], shown: Shown
) -> None:
    assert shown["qwen2_vl"]["auto"]["backend"] == PILLOW
    assert shown["qwen2_vl"]["auto"]["pixels"] == use_pillow(Qwen2VLImageProcessorPil, folders["qwen2_vl"])


@pytest.mark.parametrize("name", ["llava_next", "qwen2_vl", "organism"])
def test_torchvision_is_used_where_it_is_asked_for_and_is_in_the_key(shown: Shown, name: str) -> None:
    auto, asked = shown[name]["auto"], shown[name]["torchvision"]
    assert asked["backend"].startswith("torchvision 0.")
    assert asked["backend"].endswith(f", {PILLOW}")
    assert asked["key"] != auto["key"]
    assert asked["pixels"] != auto["pixels"]


def test_a_judge_sees_the_same_pixels_with_torchvision_and_without(
    folders: Mapping[str, Path], shown: Shown
) -> None:
    wanted = use_pillow(LlavaNextImageProcessorPil, folders["llava_next"])
    assert shown["llava_next"]["judge"] == show_judge(folders["llava_next"]) == wanted

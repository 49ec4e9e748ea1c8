"""A blank image is one colour where the vision tower sees it, behind the processors that models are published with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPVisionConfig

from cmrm.doctor import CHECKS, examine
from cmrm.errors import UserError
from cmrm.models.family_table import FAMILIES
from cmrm.models.mean_color import read_mean_color
from cmrm.models.noise_contrast import fit_contrast
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prompts.conditions import make_meaningless
from cmrm.prompts.meaningless_images import MeaninglessImage, noise_image
from tasks.shards.prompts import PromptBuilder
from tasks.shards.stimuli import check_stimuli
from tests.conformance.builders import llava
from tests.conformance.examining import Examined
from tests.conformance.loading import load_tiny
from tests.conformance.parts import TOWER
from tests.conformance.published import IMAGES, publish

EXAMINED = ("published",)
# Image tokens of a blank and grey levels of noise behind the published processors, by transformers 5.23.0 and Pillow
# 13.0.0; docs/models.md has the same table. Mllama's image is one token, which cross-attention looks past.
SEEN = {
    "aria": (256, 60),
    "aya_vision": (169, 60),
    "chameleon": (1024, 65),
    "cohere2_vision": (256, 60),
    "deepseek_vl": (576, 60),
    "deepseek_vl_hybrid": (576, 52),
    "emu3": (4160, 60),
    "ernie4_5_vl_moe": (144, 74),
    "exaone4_5": (144, 74),
    "fast_vlm": (256, 60),
    "gemma3": (256, 49),
    "gemma3n": (256, 60),
    "gemma4": (256, 60),
    "gemma4_unified": (256, 60),
    "glm46v": (144, 74),
    "glm4v": (144, 74),
    "glm4v_moe": (144, 74),
    "glm_ocr": (144, 74),
    "idefics2": (320, 49),
    "idefics3": (2873, 65),
    "internvl": (256, 60),
    "janus": (576, 60),
    "kimi_k25": (144, 74),
    "lfm2_vl": (100, 47),
    "lighton_ocr": (144, 74),
    "llama4": (144, 74),
    "llava": (576, 74),
    "llava_next": (2928, 67),
    "llava_next_video": (2928, 67),
    "llava_onevision": (1485, 60),
    "mistral3": (144, 74),
    "mllama": (1, 50),
    "ovis2": (256, 60),
    "paddleocr_vl": (196, 60),
    "paligemma": (256, 40),
    "perception_lm": (9472, 60),
    "qwen2_5_vl": (144, 74),
    "qwen2_vl": (144, 74),
    "qwen3_5": (100, 57),
    "qwen3_5_moe": (100, 57),
    "qwen3_vl": (100, 57),
    "qwen3_vl_moe": (100, 57),
    "smolvlm": (1088, 65),
    "step3p7": (169, 49),
    "video_llama_3": (576, 74),
    "video_llava": (256, 40),
    "vipllava": (576, 74),
}
# Towers with rotary positions alone make one vector of all patches of a blank.
ROTARY_ALONE = {
    *("ernie4_5_vl_moe", "exaone4_5", "glm_ocr", "lighton_ocr", "mistral3", "qwen2_5_vl", "qwen2_vl"),
    "video_llama_3",
}


@pytest.fixture(scope="module")
def examined(examine: Callable[[str], Examined]) -> Examined:
    """What `examine_published` returns for each family."""
    return examine("published")


@pytest.fixture(scope="module")
def llava_next(tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    """A LLaVA-NeXT with the published processor and a tower of its size, 336 pixels, but narrow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llava, "SIDE", 336)
        patch.setattr(llava, "PATCH", 14)
        patch.setattr(llava, "SQUARE", {"height": 336, "width": 336})
        patch.setattr(llava, "GRID", IMAGES["llava_next"]["image_grid_pinpoints"])
        patch.setattr(llava, "CLIP", CLIPVisionConfig(image_size=336, patch_size=14, **TOWER))
        return load_tiny("llava_next", tmp_path_factory.mktemp("llava_next"))


def test_a_blank_is_one_colour_at_the_size_of_every_family(examined: Mapping[str, Any]) -> None:
    assert set(examined) == set(FAMILIES) == set(SEEN)
    assert {name for name, one in examined.items() if one["uniform"]} == set(FAMILIES)
    own = {name: one["size"] for name, one in examined.items() if one["size"] != 336}
    assert own == {"llava_next": 672, "llava_next_video": 672}
    for name, one in examined.items():
        mean, deviation = (np.array(IMAGES[name][field]) for field in ("image_mean", "image_std"))
        white = 255 * IMAGES[name].get("rescale_factor", 1 / 255)
        # bfloat16 (Llama 4) has 8 bits.
        np.testing.assert_allclose(one["low"], (white - mean) / deviation, rtol=4e-3, err_msg=name)


def test_image_tokens_and_contrast_are_those_of_the_page(examined: Mapping[str, Any]) -> None:
    assert {name: (one["tokens"], round(one["contrast"])) for name, one in examined.items()} == SEEN


def test_a_blank_is_one_vector_where_positions_are_rotary_alone(examined: Mapping[str, Any]) -> None:
    found = {name: one["distinct"] for name, one in examined.items() if one["distinct"][0] is not None}
    assert set(FAMILIES) - set(found) == {"mllama"}
    assert {name for name, (distinct, _) in found.items() if distinct == 1} == ROTARY_ALONE
    # Tiles of a blank repeat each other; only the ends of their rows are another vector.
    assert found["llava_next"] == [5, 24]
    assert found["llava"] == [4, 4]


def test_the_doctor_fails_a_blank_that_llava_next_pads_and_says_the_size(
    llava_next: VisionLanguageModel,
) -> None:
    checks = [one for one in CHECKS if one.name == "stimulus"]
    found = {size: next(examine(llava_next, image_size=size, checks=checks)) for size in (336, 672, None)}
    assert {size: one.passed for size, one in found.items()} == {336: False, 672: True, None: True}
    assert "a white image of 336 pixels is not one colour" in found[336].detail
    assert found[336].detail.endswith("set images.size: 672")
    # 24 × 24 patches of the whole, 48 × 48 of four equal tiles, 48 ends of rows.
    assert found[672].detail.startswith(
        "blank of 672 px: one colour, 2928 image tokens, 577 of them distinct"
    )
    assert found[None].detail == found[672].detail


def show(condition: Any, size: int, size_from: Any) -> PromptBuilder:
    recipes = make_meaningless(size=size, color=(255, 255, 255), seed=0)
    return PromptBuilder(
        images=None, meaningless={condition: recipes[condition]}, system=None, size_from=size_from
    )


def test_a_run_refuses_a_padded_blank_of_the_familys_size_and_warns_of_one_of_the_specs(
    llava_next: VisionLanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError) as raised:
        check_stimuli(show("blank", 336, "family"), llava_next, ["query", "blank"], model="m@1")
    message = str(raised.value)
    assert message.startswith("images.size: the blank image of 336 pixels, shown to m@1, is not one colour")
    assert message.endswith("set images.size: 672.")
    assert "\n" not in message
    assert not caplog.records

    found = check_stimuli(show("blank", 336, "spec"), llava_next, ["query", "blank"], model="m@1")
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("WARNING", message)
    assert set(found) == {"blank"}
    plain = show_plainly(llava_next, Image.new("RGB", (336, 336), (255, 255, 255)))
    assert not found["blank"]["uniform"]
    assert found["blank"]["low"] == pytest.approx(plain.min(axis=(0, 1, 3, 4)).tolist(), abs=1e-4)
    assert found["blank"]["high"] == pytest.approx(plain.max(axis=(0, 1, 3, 4)).tolist(), abs=1e-4)
    assert found["blank"]["size_from"] == "spec"


def test_padding_that_leaves_noise_noise_is_no_fault(
    llava_next: VisionLanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    found = check_stimuli(show("noise", 336, "family"), llava_next, ["noise"], model="m@1")
    assert not caplog.records
    assert found["noise"]["contrast"] == pytest.approx([85, 85, 85], abs=1)


def show_plainly(vlm: VisionLanguageModel, image: Image.Image) -> np.ndarray[Any, Any]:
    """Pixel values by transformers' image processor alone, [images, tiles or none, channels, height, width]."""
    return np.asarray(vlm.processor.image_processor(image, return_tensors="np")["pixel_values"])


@pytest.mark.parametrize("name", ["llava_next", "paligemma"])
@pytest.mark.parametrize("distribution", ["uniform", "gaussian"])
@pytest.mark.parametrize("contrast", [25.0, 50.0])
def test_noise_has_the_stated_contrast_behind_the_processor(
    tmp_path: Path, name: str, distribution: Any, contrast: float
) -> None:
    vlm = publish(load_tiny(name, tmp_path), name)
    size = vlm.family.image_size
    recipe = MeaninglessImage(kind="noise", size=size, seed=3, distribution=distribution, contrast=contrast)
    fitted = fit_contrast(vlm, recipe)
    assert fitted.as_dict() == recipe.as_dict()
    pixels = np.moveaxis(show_plainly(vlm, fitted.render()), -3, 0).reshape(3, -1)
    deviations = pixels.std(axis=1) * np.array(IMAGES[name]["image_std"]) * 255
    assert deviations.mean() == pytest.approx(contrast, abs=0.1)
    assert deviations == pytest.approx([contrast] * 3, abs=0.5)
    # Left as it is, it has another: 67 and 40, or less.
    plain = noise_image(size=size, seed=3, distribution=distribution)
    assert abs(show_plainly(vlm, plain).std() * IMAGES[name]["image_std"][0] * 255 - contrast) > 1


@pytest.mark.parametrize(
    ("size", "contrast", "said"),
    [
        (336, 100.0, r"100 grey levels .* 0\.6 to 65\.6; give"),
        # So near to none that an image of one colour would do.
        (336, 0.01, r"0\.01 grey levels .* 0\.6 to 65\.6; give"),
        # One pixel is of one colour.
        (1, 20.0, r"20 grey levels .* 0\.0 to 0\.0; give"),
    ],
)
def test_a_contrast_that_cannot_be_had_names_those_that_can(
    tmp_path: Path, size: int, contrast: float, said: str
) -> None:
    vlm = publish(load_tiny("paligemma", tmp_path), "paligemma")
    recipe = MeaninglessImage(kind="noise", size=size, contrast=contrast)
    with pytest.raises(UserError, match=rf"images\.noise_contrast: {said}") as raised:
        fit_contrast(vlm, recipe)
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match="fitted"):
        recipe.render()


@pytest.mark.parametrize("name", ["llava", "paligemma"])
def test_the_mean_colour_is_about_zero_behind_the_processor_of_each_family(tmp_path: Path, name: str) -> None:
    vlm = publish(load_tiny(name, tmp_path), name)
    vlm.processor.save_pretrained(tmp_path / "published")
    color = read_mean_color(tmp_path / "published")
    recipe = make_meaningless(size=336, color=(255, 255, 255), seed=0, mean=color)["blank-mean"]
    assert np.abs(show_plainly(vlm, recipe.render())).max() <= 1 / 255 + 1e-6
    assert recipe.color == {"llava": (123, 117, 104), "paligemma": (128, 128, 128)}[name]


def test_a_mean_that_no_file_names_is_told_where_it_is_needed_alone(tmp_path: Path) -> None:
    assert read_mean_color(tmp_path) is None
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 2, 0.5]}')
    assert read_mean_color(tmp_path) is None
    recipes = make_meaningless(size=8, color=(255, 255, 255), seed=0, mean=None)
    assert recipes["blank"].as_dict() == {"kind": "blank", "size": 8, "color": [255, 255, 255]}
    for needs_it in (recipes["blank-mean"].as_dict, recipes["blank-mean"].render):
        with pytest.raises(UserError, match=r"blank-mean: .* names no image_mean"):
            needs_it()

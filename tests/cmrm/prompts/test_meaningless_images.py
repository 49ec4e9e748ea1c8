from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from cmrm.errors import UserError
from cmrm.prompts.meaningless_images import MeaninglessImage, blank_image, noise_image

# The digest's beginning of the noise of seed 0, 128 pixels wide.
GAUSSIAN = "59404e43435c6ccd"
RED = (255, 0, 0)


def test_noise_is_the_same_for_good():
    digest = hashlib.sha256(noise_image(size=32, seed=42).tobytes()).hexdigest()
    assert digest == "acb0a4d936e1b45463f67cd9241ac40ca8784ec5315f899ac44b979d2d5b586c"


def test_noise_is_uniform_over_all_byte_values():
    counts = np.bincount(np.asarray(noise_image(size=128, seed=0)).ravel(), minlength=256)
    assert counts.min() > 120
    assert counts.max() < 270


def test_gaussian_noise_has_the_mean_and_deviation_it_says_and_is_the_same_for_good():
    picture = noise_image(size=128, seed=0, distribution="gaussian")
    values = np.asarray(picture).ravel().astype(float)
    inner = values[(values > 0) & (values < 255)]
    assert abs(values.mean() - 127.5) < 1
    # Cut at two deviations, so that 2.3 % of the values lie at either end.
    assert 0.02 < (values == 0).mean() < 0.026
    assert 0.02 < (values == 255).mean() < 0.026
    assert 54 < inner.std() < 57
    assert hashlib.sha256(picture.tobytes()).hexdigest().startswith(GAUSSIAN)
    assert picture.tobytes() != noise_image(size=128, seed=0).tobytes()


def test_each_seed_gives_its_own_noise():
    assert noise_image(size=8, seed=0).tobytes() != noise_image(size=8, seed=1).tobytes()


def test_a_blank_image_has_one_colour():
    assert blank_image(size=5, color=RED).getcolors() == [(25, RED)]


@pytest.mark.parametrize("kind", ["blank", "noise"])
def test_a_meaningless_image_is_rendered_from_its_recipe(kind):
    recipe = MeaninglessImage(kind=kind, size=7, color=RED, seed=3)
    expected = blank_image(size=7, color=RED) if kind == "blank" else noise_image(size=7, seed=3)
    assert recipe.render().tobytes() == expected.tobytes()


def test_a_recipe_names_only_what_determines_the_pixels():
    assert MeaninglessImage(kind="blank", size=7, seed=3).as_dict() == {
        "kind": "blank",
        "size": 7,
        "color": [255, 255, 255],
    }
    assert MeaninglessImage(kind="noise", size=7, seed=3).as_dict() == {
        "kind": "noise",
        "size": 7,
        "seed": 3,
        "distribution": "uniform",
    }


@pytest.mark.parametrize(
    "recipe",
    [
        {"kind": "black", "size": 7},
        {"kind": "blank", "size": 0},
        {"kind": "blank", "size": 7, "color": (0, 0, 256)},
        {"kind": "blank", "size": 7, "color": (0, 0)},
        {"kind": "noise", "size": 7, "seed": -1},
    ],
)
def test_an_impossible_recipe_is_refused(recipe):
    with pytest.raises(UserError, match="image"):
        MeaninglessImage(**recipe)


def test_one_recipe_is_rendered_once():
    recipe = MeaninglessImage(kind="noise", size=8, seed=3)
    assert recipe.render() is MeaninglessImage(kind="noise", size=8, seed=3).render()
    assert recipe.render() is not MeaninglessImage(kind="noise", size=8, seed=4).render()


def test_a_gain_scales_noise_about_its_middle_and_cuts_it_off_at_both_ends():
    plain = np.asarray(noise_image(size=16, seed=5)).astype(float)
    for gain in (0.0, 0.5, 3.0):
        scaled = np.asarray(noise_image(size=16, seed=5, gain=gain))
        assert np.array_equal(scaled, np.clip(np.rint(127.5 + gain * (plain - 127.5)), 0, 255))
    assert noise_image(size=16, seed=5, gain=1.0).tobytes() == noise_image(size=16, seed=5).tobytes()


@pytest.mark.parametrize("kind", ["blank", "noise"])
def test_a_recipe_is_restored_from_what_a_key_holds(kind):
    recipe = MeaninglessImage(kind=kind, size=7, contrast=40.0 if kind == "noise" else None)
    fitted = replace(recipe, gain=0.5 if kind == "noise" else None)
    assert fitted.as_dict() == recipe.as_dict()
    stored = json.loads(json.dumps(recipe.as_dict()))
    assert MeaninglessImage.from_dict(stored, gain=fitted.gain) == fitted
    assert ("contrast" in stored) == (kind == "noise")


@pytest.mark.parametrize("contrast", [0.0, -1.0, 128.0])
def test_a_contrast_that_no_image_has_is_refused(contrast):
    with pytest.raises(UserError, match="image contrast"):
        MeaninglessImage(kind="noise", size=7, contrast=contrast)

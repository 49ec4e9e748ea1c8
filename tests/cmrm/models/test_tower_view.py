"""A view shows the pixels that the vision tower gets, turned back into grey levels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessorPil

from cmrm.models.tower_view import MOST_PIXELS, view_pixels
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prompts.meaningless_images import blank_image, noise_image


def test_a_view_of_noise_is_sampled_from_what_the_processor_resized(vlm: VisionLanguageModel) -> None:
    noise = noise_image(size=100, seed=3)
    settings = vlm.processor.image_processor.to_dict()
    settings |= {"do_normalize": False, "do_rescale": False}
    resized = CLIPImageProcessorPil(**settings)(noise, return_tensors="np")["pixel_values"][0]
    _, height, width = resized.shape
    side = min(height, int(MOST_PIXELS**0.5))
    expected = resized[:, np.arange(side) * height // side][:, :, np.arange(side) * width // side]
    view = view_pixels(vlm, noise)
    assert view is not None
    assert (view.shown, view.tiles) == (1, 1)
    np.testing.assert_allclose(np.asarray(view.picture), expected.transpose(1, 2, 0).round(), atol=1)


def test_a_view_of_a_blank_is_its_colour(vlm: VisionLanguageModel) -> None:
    view = view_pixels(vlm, blank_image(size=50, color=(10, 200, 90)))
    assert view is not None
    assert view.picture.getcolors() == [(view.picture.width * view.picture.height, (10, 200, 90))]


def test_there_is_no_view_where_the_processor_does_not_say_its_mean(
    vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vlm.processor.image_processor, "image_mean", None)
    # The processor itself would fail; what is asked is whether a made-up mean is shown.
    pixels = {"pixel_values": torch.zeros(1, 3, 8, 8)}
    monkeypatch.setattr("cmrm.models.tower_view.render_pixels", lambda *_: pixels)
    assert view_pixels(vlm, blank_image(size=8, color=(0, 0, 0))) is None

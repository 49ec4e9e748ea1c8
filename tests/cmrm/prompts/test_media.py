from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from cmrm.errors import UserError
from cmrm.prompts.conditions import CONDITIONS, CONTROLS, Prompt, make_meaningless, missing, show
from cmrm.prompts.meaningless_images import noise_image
from cmrm.prompts.media import Audio, Medium, Video, digest_medium
from cmrm.prompts.sample import Sample

IMAGES = (Medium(kind="image", name="a.png"), Medium(kind="image", name="b.png"))
OWN = {
    "a.png": Image.new("RGB", (9, 5), "red"),
    "b.png": Image.new("RGB", (4, 7), "green"),
    "c.gif": Video(frames=tuple(Image.new("RGB", (6, 8), (0, 0, one)) for one in (10, 20, 30)), fps=1.5),
    "d.wav": Audio(samples=np.linspace(-1, 1, 480, dtype=np.float32), rate=16_000),
}
ALL = (*IMAGES, Medium(kind="video", name="c.gif"), Medium(kind="audio", name="d.wav"))
RECIPES = make_meaningless(size=32, color=(250, 240, 230), seed=3)


def make_sample(**changes):
    return Sample(**{"id": "1", "dataset": "d", "question": "what is it?", "harmful": False} | changes)


def show_all(condition, media=ALL, recipes=RECIPES):
    sample = make_sample(media=media, caption="a cat")
    return show(
        sample,
        condition,
        open_image=pytest.fail,
        open_media=lambda medium: OWN[medium.name],
        meaningless=recipes,
        system="Be kind.",
    )


def test_one_image_as_media_and_an_image_beside_media_are_refused():
    with pytest.raises(ValueError, match="give it as `image`"):
        make_sample(media=IMAGES[:1])
    with pytest.raises(ValueError, match="in order"):
        make_sample(image="x.png", media=IMAGES)
    with pytest.raises(ValueError, match="give it as `image`"):
        Prompt(text="?", media=(OWN["a.png"],))
    with pytest.raises(ValueError, match="in order"):
        Prompt(text="?", image=OWN["a.png"], media=(OWN["c.gif"],))
    with pytest.raises(ValueError, match="unknown"):
        Medium(kind="smell", name="a.png")


@pytest.mark.parametrize(
    ("frames", "fps"),
    [
        ((), 1.0),
        ((Image.new("RGB", (2, 2)), Image.new("RGB", (2, 3))), 1.0),
        ((Image.new("L", (2, 2)),), 1.0),
        ((Image.new("RGB", (2, 2)),), 0.0),
        ((Image.new("RGB", (2, 2)),), math.inf),
    ],
)
def test_a_video_without_frames_of_one_size_or_without_a_rate_is_refused(frames, fps):
    with pytest.raises(ValueError, match="video"):
        Video(frames=frames, fps=fps)


@pytest.mark.parametrize(
    ("samples", "rate"),
    [
        (np.zeros((2, 4), dtype=np.float32), 8),
        (np.zeros(4), 8),
        (np.zeros(0, dtype=np.float32), 8),
        (np.full(4, np.nan, dtype=np.float32), 8),
        (np.zeros(4, dtype=np.float32), 0),
    ],
)
def test_a_sound_of_another_shape_or_without_samples_is_refused(samples, rate):
    with pytest.raises(ValueError, match="sound"):
        Audio(samples=samples, rate=rate)


def test_under_image_a_sample_shows_its_own_media_in_order():
    prompt = show_all("image")
    assert prompt.media == prompt.shown == tuple(OWN.values())
    assert (prompt.image, prompt.control, prompt.text, prompt.system) == (
        None,
        None,
        "what is it?",
        "Be kind.",
    )
    assert Prompt(text="?", image=OWN["a.png"]).shown == (OWN["a.png"],)
    assert Prompt(text="?").shown == ()


@pytest.mark.parametrize("condition", [one for one in CONDITIONS if one not in ("query", "caption", "image")])
def test_a_counterpart_keeps_the_number_the_sizes_and_the_lengths_of_media(condition):
    prompt = show_all(condition)
    first, second, video, sound = prompt.shown
    assert (first.size, second.size, first.mode) == ((9, 5), (4, 7), "RGB")
    assert (len(video.frames), video.size, video.fps) == (3, (6, 8), 1.5)
    assert (len(sound.samples), sound.rate, sound.samples.dtype) == (480, 16_000, np.float32)
    assert prompt.control == (condition if condition in CONTROLS else None)
    assert (prompt.text, prompt.system) == ("what is it?", "Be kind.")


@pytest.mark.parametrize(("condition", "color"), [("blank", (250, 240, 230)), ("blank-black", (0, 0, 0))])
def test_blank_media_are_of_one_colour_and_silent(condition, color):
    first, second, video, sound = show_all(condition).shown
    for image in (first, second, *video.frames):
        assert (np.asarray(image) == color).all()
    assert not sound.samples.any()


@pytest.mark.parametrize("condition", ["noise", "noise-gaussian"])
def test_noise_is_drawn_anew_for_each_medium_and_frame_and_again_from_the_seed(condition):
    media = (IMAGES[0], IMAGES[0], Medium(kind="video", name="c.gif"), Medium(kind="audio", name="d.wav"))
    first, second, video, sound = show_all(condition, media).shown
    drawn = [np.asarray(one) for one in (first, second)]
    assert (drawn[0] != drawn[1]).mean() > 0.9
    frames = np.stack([np.asarray(one) for one in video.frames])
    assert all((frames[one] != frames[other]).mean() > 0.9 for one, other in ((0, 1), (1, 2), (0, 2)))
    assert np.sqrt(np.mean(sound.samples.astype(float) ** 2)) == pytest.approx(0.1, rel=1e-6)
    assert abs(sound.samples.mean()) < 0.02
    # Uniform noise ends at √3 deviations; Gaussian noise does not.
    assert (np.abs(sound.samples).max() > 0.1 * 1.8) is np.bool_(condition == "noise-gaussian")
    again = show_all(condition, media).shown
    assert [digest_medium(one) for one in again] == [
        digest_medium(one) for one in (first, second, video, sound)
    ]
    other = show_all(condition, media, make_meaningless(size=32, color=(0, 0, 0), seed=4)).shown
    assert not {digest_medium(one) for one in other} & {digest_medium(one) for one in again}


def test_noise_of_a_stated_contrast_and_a_mean_colour_that_is_not_known_are_refused():
    recipes = make_meaningless(size=32, color=(0, 0, 0), seed=3, mean=None, contrast=20.0)
    with pytest.raises(UserError, match="noise_contrast"):
        show_all("noise", recipes=recipes)
    with pytest.raises(UserError, match="blank-mean"):
        show_all("blank-mean", recipes=recipes)


def test_texts_of_a_sample_with_media_open_nothing():
    prompts = [
        show_all(condition, (Medium(kind="video", name="gone"),)) for condition in ("query", "caption")
    ]
    assert [(one.text, one.shown) for one in prompts] == [("what is it?", ()), ("a cat\nwhat is it?", ())]


def test_a_sample_with_media_has_its_image():
    assert missing(make_sample(media=IMAGES), "image") is None
    assert missing(make_sample(), "image") == "no image"


def test_samples_without_media_are_shown_one_square_of_the_recipe():
    for sample in (make_sample(), make_sample(image="a.png")):
        prompt = show(sample, "noise", open_image=pytest.fail, open_media=pytest.fail, meaningless=RECIPES)
        assert prompt.media == ()
        assert np.array_equal(np.asarray(prompt.image), np.asarray(noise_image(size=32, seed=3)))


def test_a_digest_tells_all_apart_that_a_model_can():
    frames, sound = OWN["c.gif"].frames, OWN["d.wav"].samples
    different = [
        *OWN.values(),
        Video(frames=frames, fps=3.0),
        Video(frames=frames[::-1], fps=1.5),
        Video(frames=frames[:2], fps=1.5),
        Video(frames=(OWN["a.png"],), fps=1.5),
        Audio(samples=sound, rate=8_000),
        Audio(samples=-sound, rate=16_000),
        Audio(samples=sound[1:], rate=16_000),
    ]
    assert len({digest_medium(one) for one in different}) == len(different)
    assert digest_medium(Audio(samples=sound.copy(), rate=16_000)) == digest_medium(OWN["d.wav"])

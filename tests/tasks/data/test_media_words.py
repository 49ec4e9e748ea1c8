"""What a sample's media are called where a page or a sheet cannot show all of them."""

from __future__ import annotations

import pytest

from tasks.data.media_words import find_picture, note_media, say_media

IMAGE = {"kind": "image", "name": "a.png", "digest": "1", "frames": None, "seconds": None}
VIDEO = {"kind": "video", "name": "b.mp4", "digest": "2", "frames": 8, "seconds": 3.25}
SOUND = {"kind": "audio", "name": "c.wav", "digest": "3", "frames": None, "seconds": 1.5}


@pytest.mark.parametrize(
    ("media", "words", "picture"),
    [
        ([IMAGE, IMAGE], "2 images", IMAGE),
        ([VIDEO], "video of 3.2 s, 8 frames shown", VIDEO),
        ([SOUND], "sound of 1.5 s", None),
        ([VIDEO, SOUND, IMAGE], "1 image; video of 3.2 s, 8 frames shown; sound of 1.5 s", IMAGE),
    ],
)
def test_media_are_counted_and_measured_above_the_question(media, words, picture):
    assert say_media(media) == words
    assert note_media("What?", media) == f"[{words}]\nWhat?"
    assert find_picture(media) == picture


@pytest.mark.parametrize("media", [None, []])
def test_a_question_without_media_stays_as_it_is(media):
    assert note_media("What?", media) == "What?"
    assert find_picture(media) is None

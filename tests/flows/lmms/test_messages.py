"""Questions of lmms-eval as prompts: one turn, one image ahead of the text, and no silent change of either."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmrm.errors import UserError
from flows.lmms.messages import read_prompt

RED, BLUE = (200, 10, 10), (10, 10, 200)


def make(color=RED, size=(4, 3)):
    return Image.new("RGB", size, color)


def turn(*parts, role="user"):
    content = [
        {"type": "text", "text": one}
        if isinstance(one, str)
        else {"type": "image", "url": str(one) if isinstance(one, Path) else one}
        for one in parts
    ]
    return {"role": role, "content": content}


def read(*messages, layout="as_asked", system=None):
    return read_prompt(messages, layout=layout, system=system, where="task t, question 3")


def test_an_image_and_a_text_make_a_prompt():
    prompt = read(turn(make(), "what color is it?"))
    assert (prompt.text, prompt.system, prompt.image.getpixel((1, 1))) == ("what color is it?", None, RED)


def test_a_question_without_an_image_is_a_text():
    assert read(turn("how many legs has a dog?")).image is None


def test_a_system_line_is_the_questions_or_the_arms_and_never_one_of_two():
    asked, line = turn("what is it?"), turn("be brief.", role="system")
    assert read(line, asked).system == read(line, asked, system="be brief.").system == "be brief."
    assert read(asked, system="be kind.").system == "be kind."
    with pytest.raises(UserError, match="task t, question 3 has a system message, and the arm"):
        read(line, asked, system="be kind.")


def test_an_image_is_read_from_a_file_and_put_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    make(size=(4, 2)).save(tmp_path / "on-its-side.jpg", exif=exif, quality=95)
    assert read(turn(tmp_path / "on-its-side.jpg", "what?")).image.size == (2, 4)
    opened = Image.open(tmp_path / "on-its-side.jpg")
    assert read(turn(opened, "what?")).image.size == (2, 4)


def test_transparency_is_over_white():
    clear = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    assert read(turn(clear, "what?")).image.getpixel((0, 0)) == (255, 255, 255)


def test_text_ahead_of_an_image_is_refused_unless_the_image_may_be_moved():
    asked = turn("look at", make(), "what is it?")
    with pytest.raises(
        UserError, match=r"task t, question 3 has text ahead of its image.*layout=image_first"
    ):
        read(asked)
    prompt = read(asked, layout="image_first")
    assert (prompt.text, prompt.image.size) == ("look at what is it?", (4, 3))


def test_several_images_are_refused_unless_they_may_become_one():
    asked = turn(make(RED, (4, 3)), make(BLUE, (2, 5)), "which is larger?")
    with pytest.raises(UserError, match=r"task t, question 3 has 2 images.*layout=image_first"):
        read(asked)
    seen = np.asarray(read(asked, layout="image_first").image)
    expected = np.full((5, 6, 3), 255)
    expected[:3, :4], expected[:, 4:] = RED, BLUE
    assert (seen == expected).all()


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (
            [{"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}],
            "has video in the turn of the user",
        ),
        (
            [{"role": "user", "content": [{"type": "audio", "url": "a.wav"}]}],
            "has audio in the turn of the user",
        ),
        ([turn("2 + 2?"), turn("4", role="assistant"), turn("3 + 3?")], "has a turn of the assistant"),
        ([turn("2 + 2?"), turn("3 + 3?")], "has not one turn of the user"),
        ([turn("be brief.", role="system")], "has not one turn of the user"),
        ([turn(make(), role="system"), turn("what?")], "has image in the turn of the system"),
        ([turn(b"bytes", "what?")], "has an image of the type bytes"),
    ],
)
def test_what_is_no_question_with_an_image_is_refused_by_its_name(messages, words):
    with pytest.raises(UserError, match=f"task t, question 3 {words}"):
        read(*messages)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(UserError, match=r"'gone.png' is not in"):
        read(turn(tmp_path / "gone.png", "what?"))

"""What is asked: questions of 10 to 25 tokens from a list of words, on pictures that are all different."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import blank_image, noise_image

SEED = 7
# The first number of the questions that captions are made of.
CAPTIONS = 20_000
FEWEST_WORDS, MOST_WORDS = 7, 19
WORDS = (
    "what which who where when why how is are was does did can could would should the a an this that these those in "
    "on under behind beside near above between picture photograph image scene background foreground corner left right "
    "man woman child person people dog cat bird horse car bus train bicycle street road house window door table chair "
    "plate cup bottle knife kitchen garden tree flower river beach mountain sky cloud sun snow rain color red blue "
    "green yellow black white large small old young many few number kind type reason purpose likely happening holding "
    "wearing standing sitting walking looking making taking using made used seen shown done tell describe explain name "
    "list count compare write short long detail step instructions someone something weather season time day night"
).split()


def make_questions(count: int, *, start: int = 0) -> list[str]:
    """Questions number `start` and on; a question is the same whatever their count."""
    return [_make_question(number) for number in range(start, start + count)]


def _make_question(number: int) -> str:
    draw = np.random.default_rng((SEED, number))
    words = draw.choice(WORDS, size=draw.integers(FEWEST_WORDS, MOST_WORDS + 1))
    return " ".join(words).capitalize() + "?"


def make_picture(number: int, *, side: int) -> Image.Image:
    """A picture of its own for each number: 64 × 64 random cells, `side` pixels wide."""
    cells = np.random.default_rng((SEED, 1, number)).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return Image.fromarray(cells, mode="RGB").resize((side, side), Image.Resampling.BILINEAR)


def ask_text(questions: list[str]) -> list[Prompt]:
    """The questions without an image."""
    return [Prompt(text=question) for question in questions]


def ask_blank(questions: list[str], *, side: int) -> list[Prompt]:
    """The questions on one white image, as `cmrm.prompts.conditions.show` gives them: an object for each, all alike."""
    return [
        Prompt(text=question, image=blank_image(size=side, color=(255, 255, 255))) for question in questions
    ]


def ask_noise(questions: list[str], *, side: int) -> list[Prompt]:
    """The questions on one image of noise."""
    image = noise_image(size=side, seed=0)
    return [Prompt(text=question, image=image) for question in questions]


def ask_captions(questions: list[str]) -> list[Prompt]:
    """Each question under a caption of its own, of two questions' words."""
    return [
        Prompt(text=" ".join(make_questions(2, start=CAPTIONS + 2 * number)) + f"\n{question}")
        for number, question in enumerate(questions)
    ]


def ask_pictures(questions: list[str], *, side: int) -> list[Prompt]:
    """Each question on a picture of its own."""
    return [
        Prompt(text=question, image=make_picture(number, side=side))
        for number, question in enumerate(questions)
    ]

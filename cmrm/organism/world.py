"""Synthetic scenes of the organism: small pictures of coloured shapes, and their captions."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from PIL import Image, ImageDraw

PICTURE_SIZE = 32
# Least sum of differences between a shape's colour and the background, of 765.
MIN_CONTRAST = 130

COLORS: Mapping[str, tuple[int, int, int]] = {
    "red": (215, 30, 35),
    "green": (25, 150, 45),
    "blue": (30, 65, 215),
    "yellow": (240, 215, 20),
    "purple": (135, 35, 160),
    "orange": (245, 130, 15),
    "black": (20, 20, 20),
    "pink": (250, 130, 190),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "bar")
SIDES = ("left", "right")

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One coloured shape on one side of a picture."""

    color: str
    shape: str
    side: str


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The content of a picture: one or two items, of different colour, shape and side."""

    items: tuple[Item, ...]

    @property
    def split(self) -> Split:
        """The scene's split, by a hash of its content: 70 % train, 10 % validation, 20 % test."""
        words = " ".join(f"{item.color} {item.shape} {item.side}" for item in self.items)
        bucket = int.from_bytes(sha256(words.encode()).digest()[:4], "big") % 10
        return "train" if bucket < 7 else "validation" if bucket == 7 else "test"


def imagine_scene(rng: random.Random, *, split: Split) -> Scene:
    """Draw a scene of the given split at random."""
    while True:
        count = rng.choice((1, 1, 2))
        colors = rng.sample(sorted(COLORS), count)
        shapes = rng.sample(SHAPES, count)
        sides = SIDES if count == 2 else (rng.choice(SIDES),)
        items = tuple(
            Item(color=color, shape=shape, side=side)
            for color, shape, side in zip(colors, shapes, sides, strict=True)
        )
        scene = Scene(items=items)
        if scene.split == split:
            return scene


@dataclass(frozen=True, kw_only=True)
class Painting:
    """A 32 × 32 RGB picture of a scene; `boxes` are (left, top, right, bottom) in pixels, one an item."""

    scene: Scene
    picture: Image.Image
    boxes: tuple[tuple[int, int, int, int], ...]


def paint(scene: Scene, rng: random.Random) -> Painting:
    """Paint a scene; background, grain, and position and size of the shapes vary with `rng`."""
    picture = Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), _choose_background(scene, rng))
    pen = ImageDraw.Draw(picture)
    boxes = []
    for item in scene.items:
        radius = rng.randint(5, 6)
        x = (8 if item.side == "left" else 24) + rng.randint(-1, 1)
        y = 16 + rng.randint(-6, 6)
        color = tuple(max(0, min(255, value + rng.randint(-12, 12))) for value in COLORS[item.color])
        box = (x - radius, y - radius, x + radius, y + radius)
        _draw_shape(pen, item.shape, box=box, color=color)
        boxes.append(box)
    grain = Image.frombytes("RGB", picture.size, rng.randbytes(3 * PICTURE_SIZE * PICTURE_SIZE))
    picture = Image.blend(picture, grain, rng.choice((0.0, 0.05, 0.1, 0.2)))
    return Painting(scene=scene, picture=picture, boxes=tuple(boxes))


def _choose_background(scene: Scene, rng: random.Random) -> tuple[int, ...]:
    while True:
        background = (
            tuple(rng.randint(150, 255) for _ in range(3)) if rng.random() < 0.85 else (255, 255, 255)
        )
        if all(_distance(background, COLORS[item.color]) > MIN_CONTRAST for item in scene.items):
            return background


def _distance(one: Sequence[int], other: Sequence[int]) -> int:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True))


def _draw_shape(
    pen: ImageDraw.ImageDraw, shape: str, *, box: tuple[int, int, int, int], color: tuple[int, ...]
) -> None:
    left, top, right, bottom = box
    x, y = (left + right) // 2, (top + bottom) // 2
    if shape == "circle":
        pen.ellipse((left, top, right, bottom), fill=color)
    elif shape == "square":
        pen.rectangle((left, top, right, bottom), fill=color)
    elif shape == "triangle":
        pen.polygon(((x, top), (right, bottom), (left, bottom)), fill=color)
    elif shape == "diamond":
        pen.polygon(((x, top), (right, y), (x, bottom), (left, y)), fill=color)
    elif shape == "cross":
        pen.rectangle((x - 1, top, x + 1, bottom), fill=color)
        pen.rectangle((left, y - 1, right, y + 1), fill=color)
    else:
        pen.rectangle((left, y - 2, right, y + 2), fill=color)


CAPTIONS: Sequence[str] = (
    "a picture of {items}.",
    "this picture shows {items}.",
    "there is {items}.",
    "here is {items}.",
    "you can see {items}.",
)


def describe(scene: Scene, *, caption: int = 0) -> str:
    """Describe a scene in words; `caption` picks one of the five caption templates."""
    items = " and ".join(
        f"{_article(item.color)} {item.color} {item.shape} on the {item.side}" for item in scene.items
    )
    return CAPTIONS[caption % len(CAPTIONS)].format(items=items)


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"

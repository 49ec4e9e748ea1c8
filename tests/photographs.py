"""Hundreds of distinct photographs made of scikit-image's bundled ones, as people's folders have them: some damaged.

`python -m tests.photographs 500` makes so many, pairs questions with them, and says how long either took.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage
from PIL import Image, ImageOps

BUNDLED = Path(skimage.__file__).parent / "data"
SUBJECTS = {
    "astronaut.png": "an astronaut",
    "camera.png": "a man with a camera",
    "chelsea.png": "a cat",
    "coffee.png": "a cup of coffee",
    "coins.png": "old coins",
    "horse.png": "a horse",
    "moon.png": "the moon",
    "motorcycle_left.png": "a motorcycle",
    "rocket.jpg": "a rocket",
    "hubble_deep_field.jpg": "galaxies",
}
SUFFIXES = ("jpg", "png", "webp")


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """A folder of images, what each shows by its name, and the names of those that cannot be opened."""

    folder: Path
    captions: dict[str, str]
    damaged: tuple[str, ...]


def write_photographs(folder: Path, count: int) -> Photographs:
    """Write so many distinct photographs, one in ten of an unusual kind, and one more in twenty damaged."""
    folder.mkdir(parents=True)
    captions: dict[str, str] = {}
    for number, (picture, what) in enumerate(_vary(count)):
        name = f"{number:04}.{SUFFIXES[number % 3]}"
        if number % 10 == 9:
            name = _save_unusually(picture, folder, number)
        else:
            picture.save(folder / name)
        captions[name] = what
    damaged = []
    for number in range(max(3, count // 20)):
        name = f"damaged-{number}.jpg"
        whole = (folder / "0000.jpg").read_bytes()
        half, heic = whole[: len(whole) // 2], b"\0\0\0\x18ftypheic" + whole
        (folder / name).write_bytes((b"", half, heic)[number % 3])
        captions[name] = f"a damaged file {number}"
        damaged.append(name)
    # Of a kind that is not looked at by its name.
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    return Photographs(folder=folder, captions=captions, damaged=tuple(sorted(damaged)))


def write_captions(path: Path, captions: dict[str, str]) -> Path:
    """Write captions as COCO has them."""
    names = sorted(captions)
    content = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [{"image_id": number, "caption": captions[name]} for number, name in enumerate(names)],
    }
    path.write_text(json.dumps(content))
    return path


def _vary(count: int) -> Iterator[tuple[Image.Image, str]]:
    draw = np.random.default_rng(0)
    opened = [(Image.open(BUNDLED / name).convert("RGB"), what) for name, what in SUBJECTS.items()]
    for number in range(count):
        picture, what = opened[number % len(opened)]
        side = int(draw.integers(60, 140))
        left, top = (int(draw.integers(0, edge - side)) for edge in picture.size)
        crop = picture.crop((left, top, left + side, top + side))
        if number % 2:
            crop, what = ImageOps.mirror(crop), f"{what}, mirrored"
        # A shift of colours, different for each.
        gains = draw.uniform(0.5, 1.0, 3)
        shifted = (np.asarray(crop) * gains + 255 * (1 - gains) * draw.uniform(0, 1, 3)).astype(np.uint8)
        yield Image.fromarray(shifted), f"{what}, number {number}"


def _save_unusually(picture: Image.Image, folder: Path, number: int) -> str:
    kind = number // 10 % 4
    name = f"{number:04}-{('cmyk.jpg', 'sixteen.png', 'palette.gif', 'pixel.png')[kind]}"
    if kind == 0:
        picture = picture.convert("CMYK")
    elif kind == 1:
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    elif kind == 2:
        picture = picture.convert("P", palette=Image.Palette.ADAPTIVE)
    else:
        picture = picture.resize((1, 1))
    picture.save(folder / name)
    return name


def _time(count: int) -> None:
    from tests.conftest import build_clip, build_small_llava
    from tests.flows.test_pair_photographs import (
        QUESTIONS,
        make_pairs,
        name_images,
        pair_by_transformers,
        write_paired_spec,
    )

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        begun = time.perf_counter()
        photographs = write_photographs(folder / "images", count)
        made = time.perf_counter() - begun
        clip, model = build_clip(folder / "clip", seed=0), build_small_llava(folder / "model")
        spec = write_paired_spec(folder, photographs, model=model, clip=clip)
        begun = time.perf_counter()
        pairs, _ = make_pairs(spec, folder / "store")
        taken = time.perf_counter() - begun
        same = name_images(pairs) == pair_by_transformers(photographs, clip)
    print(f"{count} photographs written in {made:.1f} s")
    print(f"{len(QUESTIONS)} questions paired in {taken:.1f} s; as transformers pairs them: {same}")


if __name__ == "__main__":
    _time(int(sys.argv[1]))

"""Thumbnails: small, each image once, kept by digest, of a size at which all fit, and of no other file."""

from __future__ import annotations

import io
import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.report.thumbnail_cache import ThumbnailCache
from flows.report.thumbnails import SIZES, SampleImage, Size, fit_thumbnails, make_thumbnails

SMALL = Size(64, 40)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "images"
    made.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (6, 240, 320, 3), dtype=np.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(made / f"{number}.png")
    (made / "copy.png").write_bytes((made / "0.png").read_bytes())
    (made / "broken.png").write_bytes(b"no image")
    (tmp_path / "outside.png").write_bytes((made / "0.png").read_bytes())
    return made


def digest(folder: Path, name: str) -> str:
    return sha256((folder / name).read_bytes()).hexdigest()


def test_each_image_is_there_once_and_small(folder: Path) -> None:
    names = ["0.png", "1.png", "0.png", "copy.png", "broken.png", "gone.png", "../outside.png"]
    made = make_thumbnails([SampleImage("d", name) for name in names], [{"d": folder}], size=SMALL)
    assert [made.find(SampleImage("d", name)) for name in names] == [
        0,
        1,
        0,
        0,
        "missing",
        "missing",
        "missing",
    ]
    assert made.lost == 3
    for file in made.files:
        image = Image.open(io.BytesIO(file))
        assert (image.format, image.size) == ("WEBP", (64, 48))
    assert (
        make_thumbnails([SampleImage("x", "0.png")], [{"x": None}], size=SMALL).find(
            SampleImage("x", "0.png")
        )
        == "missing"
    )


def test_images_of_one_name_are_told_apart_by_digest_and_looked_for_in_each_folder(
    folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "0.png").write_bytes((folder / "1.png").read_bytes())
    (other / "new.png").write_bytes((folder / "2.png").read_bytes())
    first, second = (SampleImage("d", "0.png", digest(one, "0.png")) for one in (folder, other))
    new = SampleImage("d", "new.png", digest(other, "new.png"))
    lost = SampleImage("d", "0.png", digest(folder, "3.png"))
    folders = [{"d": folder}, {"d": None}, {}, {"d": other}]
    made = make_thumbnails([first, second, new, lost], folders, size=SMALL)
    assert [made.find(one) for one in (first, second, new, lost)] == [0, 1, 2, "missing"]
    alone = [
        make_thumbnails([SampleImage("d", f"{number}.png")], [{"d": folder}], size=SMALL)
        for number in range(3)
    ]
    assert list(made.files) == [one.files[0] for one in alone]


def test_a_kept_thumbnail_is_used_again_and_a_cut_one_is_not(folder: Path, tmp_path: Path) -> None:
    cache = ThumbnailCache(folder=tmp_path / "kept")
    image = SampleImage("d", "0.png", digest(folder, "0.png"))
    (first,) = make_thumbnails([image], [{"d": folder}], size=SMALL, cache=cache).files
    (kept,) = (tmp_path / "kept").rglob("*.webp")
    assert kept.read_bytes() == first
    (folder / "0.png").unlink()
    assert make_thumbnails([image], [{"d": folder}], size=SMALL, cache=cache).files == (first,)
    assert make_thumbnails([image], [{"d": folder}], size=Size(64, 41), cache=cache).files == ()
    kept.write_bytes(first[:-1])
    assert make_thumbnails([image], [{"d": folder}], size=SMALL, cache=cache).lost == 1


def test_an_image_that_was_replaced_since_the_run_is_missing(folder: Path, tmp_path: Path) -> None:
    image = SampleImage("d", "0.png", digest(folder, "1.png"))
    cache = ThumbnailCache(folder=tmp_path / "kept")
    assert make_thumbnails([image], [{"d": folder}], size=SMALL, cache=cache).lost == 1
    assert not (tmp_path / "kept").exists()


def test_a_cache_that_cannot_be_written_costs_no_picture(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = ThumbnailCache(folder=tmp_path / "file")
    image = SampleImage("d", "0.png", digest(folder, "0.png"))
    assert len(make_thumbnails([image], [{"d": folder}], size=SMALL, cache=cache).files) == 1


def test_the_largest_size_is_taken_at_which_all_fit(folder: Path) -> None:
    images = [SampleImage("d", f"{number}.png") for number in range(6)]
    totals = [sum(map(len, make_thumbnails(images, [{"d": folder}], size=size).files)) for size in SIZES]
    assert totals == sorted(totals, reverse=True)
    for most, place in ((totals[0], 0), (totals[0] - 1, 1), (totals[2], 2), (totals[4], 4)):
        made = fit_thumbnails(images, [{"d": folder}], most=most)
        assert sum(map(len, made.files)) == totals[place]
    few = fit_thumbnails(images, [{"d": folder}], most=totals[4] // 2)
    places = [few.find(SampleImage("d", f"{number}.png")) for number in range(6)]
    assert places == [*range(len(few.files)), *["left out"] * (6 - len(few.files))]
    assert 0 < len(few.files) < 6
    assert fit_thumbnails([], [], most=0).files == ()


def test_a_frame_in_the_middle_stands_for_a_video(folder: Path) -> None:
    frames = [Image.new("RGB", (32, 24), (80 * number,) * 3) for number in range(3)]
    frames[0].save(folder / "clip.gif", save_all=True, append_images=frames[1:], duration=100)
    (folder / "frames").mkdir()
    for number, frame in enumerate(frames):
        frame.save(folder / "frames" / f"{number}.png")
    listed = [[f"{number}.png", digest(folder / "frames", f"{number}.png")] for number in range(3)]
    inside = sha256(json.dumps(listed, separators=(",", ":")).encode()).hexdigest()
    for image in (
        SampleImage("d", "clip.gif", digest(folder, "clip.gif"), "video"),
        SampleImage("d", "frames", inside, "video"),
    ):
        made = make_thumbnails([image], [{"d": folder}], size=SMALL)
        assert made.find(image) == 0
        (file,) = made.files
        assert abs(np.asarray(Image.open(io.BytesIO(file))).mean() - 80) < 4

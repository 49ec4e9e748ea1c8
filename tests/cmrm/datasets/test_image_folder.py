"""Names of images as other machines write them: found inside the folder, or the nearest name offered."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from cmrm.datasets import read_dataset, screen
from cmrm.datasets.image_folder import ImageFolder
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample


def sample(image, identity="a") -> Sample:
    return Sample(id=identity, dataset="d", question="what is it?", harmful=True, image=image, line=7)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for name in (
        "Street/0001.JPG",
        "street_2/a.png",
        "b.png",
        "twice/c.png",
        "again/c.png",
        "two/x.png",
        "TWO/x.png",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("named", "kept"),
    [
        ("street/0001.jpg", "Street/0001.JPG"),
        ("STREET\\0001.png", "Street/0001.JPG"),
        ("street_2\\a.png", "street_2/a.png"),
        ("images/B.PNG", "b.png"),
        ("two/x.jpg", "two/x.png"),
    ],
)
def test_case_suffix_and_backslashes_make_no_other_image(images, named, kept):
    (row,) = screen([sample(named)], images=images)
    assert row.image == kept


def test_a_spelling_of_two_files_finds_neither(images):
    (row,) = screen([sample("Two/x.png")], images=images)
    assert isinstance(row, Rejected)


@pytest.mark.parametrize(
    "named", ["/home/someone/data/0001.JPG", "C:\\data\\0001.JPG", "../0001.JPG", "x/y/0001.JPG"]
)
def test_a_path_of_another_machine_is_offered_by_base_name_and_found_so_where_asked(images, tmp_path, named):
    (row,) = screen([sample(named)], images=images)
    assert "'Street/0001.JPG' is there: `match: basename` in datasets.d finds" in row.reason
    path = tmp_path / "mine.csv"
    path.write_text(f"question,image\nq,{named}\n")
    (found,) = read_dataset("csv", path, dataset="d", images=images, match="basename")
    assert found.image == "Street/0001.JPG"


def test_a_base_name_of_two_files_is_rejected_and_of_none_left_to_the_screening(images, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("question,image\nq,/data/c.png\np,/data/missing.png\no,twice/c.png\n")
    several, none, exact = read_dataset("csv", path, dataset="d", images=images, match="basename")
    assert several.reason == "2 images are named 'c.png': again/c.png, twice/c.png"
    assert (none.image, exact.image) == ("/data/missing.png", "twice/c.png")


def test_a_file_under_a_name_that_is_not_utf_8_is_rejected_with_the_fix_and_ends_nothing(images, tmp_path):
    latin = os.path.join(os.fsencode(images), b"caf\xe9")  # noqa: PTH118 - bytes
    os.mkdir(latin)  # noqa: PTH102
    shutil.copy(images / "b.png", latin + b"/only.png")
    shutil.copy(images / "b.png", latin + b"/b.png")
    shutil.copy(images / "b.png", os.fsencode(images) + b"/\xe9.png")
    path = tmp_path / "mine.csv"
    path.write_text("question,image\nq,/data/only.png\np,/data/b.png\n")
    for match in ("name", "basename"):
        only, other = screen(
            read_dataset("csv", path, dataset="d", images=images, match=match), images=images
        )
        assert isinstance(only, Rejected)
        assert (
            "/only.png' is there, and its path is not UTF-8, which no store can hold: rename its"
            in only.reason
        )
        only.reason.encode("utf-8")
    assert other.image == "b.png"


@pytest.mark.parametrize("count", [20, 200])
def test_missing_images_are_rejected_by_one_listing_of_each_folder(images, monkeypatch, count):
    calls: Counter[str] = Counter()

    def count_calls(name):
        call = getattr(os, name)

        def counted(*arguments):
            calls[name] += 1
            return call(*arguments)

        monkeypatch.setattr(os, name, counted)

    count_calls("scandir")
    count_calls("lstat")
    rows = screen([sample(f"street/{number}.jpg", str(number)) for number in range(count)], images=images)
    assert all(isinstance(row, Rejected) for row in rows)
    # Once for all variants, of which some have a folder that is not there, and once for the hints.
    assert calls["scandir"] <= 2 * sum(1 for _ in os.walk(images))
    # Three times as a name that is asked for, and none of its dozen variants.
    assert calls["lstat"] <= 3 * count + 100


def test_each_folder_of_found_images_is_resolved_once(tmp_path, monkeypatch):
    places = [tmp_path / "images" / f"{number % 3}" / f"{number}.png" for number in range(300)]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"")
    seen: Counter[str] = Counter()
    lstat = os.lstat

    def count(path):
        seen[os.fspath(path)] += 1
        return lstat(path)

    monkeypatch.setattr(os, "lstat", count)
    folder = ImageFolder(tmp_path / "images")
    assert [folder.find(f"{place.parent.name}/{place.name}")[1] for place in places] == places
    # A look at each image, and at each part of the paths of three folders and the root.
    assert sum(seen.values()) <= len(places) + 4 * len(places[0].parts)


@pytest.mark.parametrize("root", ["images", "link-to-images", "images/../images"])
def test_what_is_found_is_the_file_itself_inside_the_folder(images, monkeypatch, root):
    top = images.parent
    Image.new("RGB", (8, 8)).save(top / "secret.png")
    (top / "link-to-images").symlink_to(images)
    (images / "file-link.png").symlink_to("b.png")
    (images / "folder-link").symlink_to("street_2")
    (images / "way-out").symlink_to(top)
    (images / "leak.png").symlink_to(top / "secret.png")
    os.mkfifo(images / "pipe.png")
    monkeypatch.chdir(top)
    folder = ImageFolder(Path(root))
    inside = {
        "b.png": "b.png",
        "Street/0001.JPG": "Street/0001.JPG",
        "street_2/../b.png": "b.png",
        "file-link.png": "b.png",
        "folder-link/a.png": "street_2/a.png",
        "way-out/images/b.png": "b.png",
        str(images / "b.png"): "b.png",
    }
    found = {name: folder.find(name) for name in inside}
    assert found == {name: (name, images / file) for name, file in inside.items()}
    outside = (
        "way-out/secret.png",
        "leak.png",
        "../secret.png",
        str(top / "secret.png"),
        "folder-link/../../secret.png",
    )
    assert [folder.find(name) for name in (*outside, "pipe.png", "two", "", ".", "two/")] == [None] * 10


def test_match_without_a_folder_is_refused(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("question,image\nq,a.png\n")
    with pytest.raises(UserError, match="give it as `images`"):
        list(read_dataset("csv", path, dataset="d", match="basename"))


def test_no_spelling_and_no_base_name_leads_out_of_the_folder(images):
    Image.new("RGB", (8, 8)).save(images.parent / "secret.png")
    (images / "LINK.png").symlink_to(images.parent / "secret.png")
    (images / "out").symlink_to(images.parent)
    folder = ImageFolder(images)
    for name in ("link.png", "..\\secret.png", "..\\SECRET.PNG", "OUT/secret.png", "out\\SECRET.png"):
        assert folder.find(name) is None, name
    assert folder.find_by_basename("/x/secret.png") == []
    rows = [sample("/x/LINK.png", "a"), sample("/x/link.png", "b")]
    assert all(isinstance(row, Rejected) for row in screen(rows, images=images))


def test_the_nearest_name_is_offered_for_the_first_missing_images(images):
    rows = screen([sample("strret_2/bb.png", str(number)) for number in range(30)], images=images)
    assert "; the nearest name is 'b.png'." in next(rows).reason


def test_what_cannot_be_a_name_is_cut_and_not_searched_for(images):
    names = ["A" * 400_000, "data:image/png;base64,AAAA", "a\nb.png"]
    begun = time.process_time()
    rows = list(screen([sample(name, str(number)) for number, name in enumerate(names)], images=images))
    assert time.process_time() - begun < 1
    assert all("is no usable file name" in row.reason and len(row.reason) <= 500 for row in rows)

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import Image

from cmrm.datasets import screen
from cmrm.datasets.image_folder import ImageFolder
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample


def sample(identity="a", *, question="what is it?", image=None, line=7) -> Sample:
    return Sample(id=identity, dataset="d", question=question, harmful=True, image=image, line=line)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for name in ("good.png", "sub/good.jpg", "COCO_val2014_000000000042.jpg"):
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


@pytest.mark.parametrize("question", ["", " ", "\n\t\u3000"])
def test_an_empty_question_is_rejected_with_its_line(question):
    (row,) = screen([sample(question=question)], images=None)
    assert row == Rejected(dataset="d", line=7, id="a", reason="empty question", raw="")


def test_a_second_sample_with_an_id_is_rejected():
    first, second, third = screen([sample(line=1), sample(line=2), sample("b", line=3)], images=None)
    assert (first.line, third.id) == (1, "b")
    assert (second.line, second.reason) == (2, "duplicate id 'a'")


def test_an_id_is_free_again_when_its_first_row_was_rejected():
    first, second = screen([sample(question=""), sample()], images=None)
    assert isinstance(first, Rejected)
    assert second == sample()


def test_a_row_rejected_before_passes_through():
    rejected = Rejected(dataset="d", line=1, id=None, reason="r", raw="x")
    assert list(screen([rejected], images=None)) == [rejected]


@pytest.mark.parametrize("name", ["good.png", "sub/good.jpg", None])
def test_a_good_image_or_none_passes(images, name):
    assert list(screen([sample(image=name)], images=images)) == [sample(image=name)]


def test_cocos_split_prefix_is_found(images):
    (row,) = screen([sample(image="000000000042.jpg")], images=images)
    assert row.image == "COCO_val2014_000000000042.jpg"


@pytest.mark.parametrize(
    ("kept", "named"),
    [
        ("01-Illegal_Activity/SD/0.jpg", "01-Illegal_Activitiy/SD/0.jpg"),
        ("01-Illegal_Activitiy/SD/0.jpg", "01-Illegal_Activity/SD/0.jpg"),
        ("1.webp", "images/1.png"),
        ("images/1.jpg", "images/1.png"),
        ("images/1.png", "images/1.PNG"),
    ],
)
def test_an_image_is_found_under_another_of_its_usual_names(images, kept, named):
    (images / kept).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(images / kept)
    (row,) = screen([sample(image=named)], images=images)
    assert row.image == kept


def test_a_name_that_is_there_is_taken_before_any_other(images):
    for name in ("1.png", "1.jpg", "COCO_val2014_1.jpg"):
        Image.new("RGB", (8, 8)).save(images / name)
    (row,) = screen([sample(image="1.jpg")], images=images)
    assert row.image == "1.jpg"


def test_the_file_of_an_image_is_found_by_either_name(images):
    folder = ImageFolder(images)
    expected = images.resolve() / "COCO_val2014_000000000042.jpg"
    assert folder.find("000000000042.jpg") == (expected.name, expected)
    assert folder.find(expected.name) == (expected.name, expected)
    assert folder.find("../images/good.png") == ("../images/good.png", images.resolve() / "good.png")
    assert folder.find("missing.png") is None
    assert folder.find("a\0b.png") is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.png", "is not in"),
        ("../secret.png", "outside"),
        ("link.png", "outside"),
        ("text.png", "cannot be read"),
        ("cut.png", "cannot be read"),
        ("", "is a folder, not a regular file"),
        ("sub", "is a folder, not a regular file"),
        ("a\0b.png", "file name"),
        ("x" * 5000, "image"),
    ],
)
def test_an_image_that_cannot_be_shown_is_rejected(images, name, reason):
    Image.effect_noise((64, 64), 50).save(images.parent / "secret.png")
    (images / "link.png").symlink_to(images.parent / "secret.png")
    (images / "text.png").write_text("404")
    (images / "cut.png").write_bytes((images.parent / "secret.png").read_bytes()[:-2000])
    good, bad = screen([sample("a", image="good.png"), sample("b", image=name)], images=images)
    assert isinstance(good, Sample)
    assert isinstance(bad, Rejected)
    assert reason in bad.reason
    assert (bad.id, bad.line, bad.raw) == ("b", 7, "what is it?")


def test_an_image_of_many_questions_is_decoded_once(images, monkeypatch):
    opened = []
    monkeypatch.setattr("cmrm.datasets.screening.open_medium", lambda _, medium: opened.append(medium.name))
    list(screen([sample(str(n), image="good.png") for n in range(5)], images=images))
    assert opened == ["good.png"]


def test_an_image_folder_that_does_not_exist_stops_the_reading(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        list(screen([], images=tmp_path / "missing"))


def test_images_without_a_folder_stop_the_reading():
    with pytest.raises(UserError, match="image folder"):
        list(screen([sample(image="a.png")], images=None))


def test_rows_are_screened_one_at_a_time():
    def endless() -> Iterator[Sample]:
        number = 0
        while True:
            yield sample(str(number))
            number += 1

    rows = screen(endless(), images=None)
    assert [next(rows).id for _ in range(3)] == ["0", "1", "2"]

"""Benchmarks of questions about images with short answers, as they were published."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from PIL import Image

from cmrm.errors import UserError
from cmrm.judges import Answer, make_judge
from cmrm.prompts.sample import Sample


def ids(rows) -> list[str]:
    return [row.id for row in rows]


def test_popes_questions_have_yes_or_no_as_reference_and_their_image_as_group(read, published):
    rows = read("pope", published / "pope" / "coco_pope_random.json")
    assert rows[0] == Sample(
        id="1",
        dataset="d",
        question="Is there a wug in the image?",
        harmful=False,
        image="COCO_val2014_000000000042.jpg",
        reference="yes",
        group="COCO_val2014_000000000042.jpg",
    )
    assert [row.reference for row in rows] == ["yes", "no", "no"]


def test_a_pope_label_that_is_neither_is_rejected(read, published):
    path = published / "pope" / "coco_pope_random.json"
    path.write_text('{"question_id": 1, "image": "a.jpg", "text": "Is it?", "label": "perhaps"}\n')
    (row,) = read("pope", path)
    assert row.reason == "field 'label' is 'perhaps', neither yes nor no"


def test_mm_vets_answers_keep_their_alternatives_and_parts(read, published):
    rows = read("mm-vet", published / "mm_vet" / "mm-vet.json")
    assert rows[0] == Sample(
        id="v1_0",
        dataset="d",
        question="How many wugs are on the sign?",
        harmful=False,
        image="v1_0.png",
        category="math+ocr",
        reference="2<OR>two",
        group="v1_0.png",
    )
    assert (rows[1].category, rows[1].reference) == ("rec", "sit<AND>sleep")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"question": "Which is it?<IMG>v2_0.jpg<IMG>v2_1.jpg"}, "its question holds images"),
        ({"capability": "ocr"}, "'capability' is a text, not a list"),
        ({"capability": [["ocr"]]}, "'capability' is a list, not text"),
    ],
)
def test_what_mm_vet_does_not_hold_is_rejected(read, published, changes, reason):
    path = published / "mm_vet" / "mm-vet.json"
    document = json.loads(path.read_text())
    document["v1_1"] |= changes
    path.write_text(json.dumps(document))
    whole, damaged = read("mm-vet", path)
    assert whole.id == "v1_0"
    assert reason in damaged.reason
    assert "entry 'v1_1'" in damaged.reason


def test_mmbenchs_rotations_share_an_image_that_one_row_holds(read, published, tmp_path):
    images = tmp_path / "kept"
    rows = read("mmbench", published / "mmbench" / "mmbench_dev_en.tsv", images=images)
    first, second, third = rows
    with Image.open(images / first.image) as image:
        assert (image.format, image.getpixel((0, 0))) == ("PNG", (255, 0, 0))
    assert first == Sample(
        id="241",
        dataset="d",
        question=(
            "Hint: Two wugs sit on a table.\nWhich wug is red?\n(A) the left one\n(B) the right one\n(C) none\n"
            "(D) both\nAnswer with the letter of the right choice."
        ),
        harmful=False,
        image=first.image,
        category="finegrained_perception (instance-level)/attribute_recognition",
        reference="A",
        group=first.image,
    )
    assert (second.id, second.image, second.group, second.reference) == (
        "1000241",
        first.image,
        first.group,
        "D",
    )
    assert third.question == "Is this a blick?\n(A) yes\n(B) no\nAnswer with the letter of the right choice."
    assert third.image != first.image
    assert len(list(images.iterdir())) == 2


def edit_mmbench(path, row: int, **changes) -> None:
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    for name, value in changes.items():
        lines[row][lines[0].index(name)] = value
    path.write_text("".join("\t".join(line) + "\n" for line in lines))


def test_an_image_further_down_is_found(read, published, tmp_path):
    path = published / "mmbench" / "mmbench_dev_en.tsv"
    edit_mmbench(path, 1, image="252")
    rows = read("mmbench", path, images=tmp_path / "kept")
    assert rows[0].image == rows[2].image
    assert "is that of row '241', which has none" in rows[1].reason


def test_the_test_file_has_no_answers(read, published, tmp_path):
    path = published / "mmbench" / "mmbench_dev_en.tsv"
    edit_mmbench(path, 1, answer="")
    rows = read("mmbench", path, images=tmp_path / "kept")
    assert [row.reference for row in rows] == [None, "D", "B"]
    without = [line.split("\t") for line in path.read_text().splitlines()]
    path.write_text("".join("\t".join(line[:7] + line[8:]) + "\n" for line in without))
    assert [row.reference for row in read("mmbench", path, images=tmp_path / "kept")] == [None] * 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"C": ""}, "a gap between them"),
        ({"B": "", "C": "", "D": ""}, "it has 1 choices"),
        ({"answer": "E"}, "'answer' is 'E', the letter of none of the 4 choices"),
        ({"answer": "AB"}, "'answer' is 'AB'"),
        ({"image": "iVBORw0KGgo" + "A" * 93}, "its image cannot be used"),
        ({"image": "n" * 80 + "!"}, "neither base64 nor the index"),
        ({"image": "999"}, "that of row '999', which has none"),
    ],
)
def test_a_damaged_mmbench_row_is_rejected(read, published, tmp_path, changes, reason):
    path = published / "mmbench" / "mmbench_dev_en.tsv"
    edit_mmbench(path, 1, **changes)
    rows = read("mmbench", path, images=tmp_path / "kept")
    assert reason in rows[0].reason
    assert ids(rows)[2] == "252"


def test_mmbench_without_a_folder_for_its_images_is_refused(read, published):
    with pytest.raises(UserError, match="give its `images`"):
        read("mmbench", published / "mmbench" / "mmbench_dev_en.tsv")


QUESTIONS = "v2_OpenEnded_mscoco_val2014_questions.json"
ANNOTATIONS = "v2_mscoco_val2014_annotations.json"


def test_vqav2s_questions_get_the_answers_of_ten_people(read, published):
    folder = published / "vqav2"
    rows = read("vqav2", folder / QUESTIONS, answers=folder / ANNOTATIONS)
    assert rows[0] == Sample(
        id="42000",
        dataset="d",
        question="What color is the wug?\nAnswer the question using a single word or phrase.",
        harmful=False,
        image="COCO_val2014_000000000042.jpg",
        category="other",
        reference=json.dumps(["red"] * 8 + ["dark red", "crimson"]),
        group="COCO_val2014_000000000042.jpg",
    )
    assert (rows[1].category, json.loads(rows[1].reference)) == ("number", ["2"] * 10)
    assert (rows[2].category, rows[2].reference) == (None, None)
    without = read("vqav2", folder / QUESTIONS)
    assert without == [replace(row, category=None, reference=None) for row in rows]


def test_vqav2s_test_questions_have_the_tests_images(read, published):
    path = (published / "vqav2" / QUESTIONS).rename(
        published / "v2_OpenEnded_mscoco_test-dev2015_questions.json"
    )
    assert read("vqav2", path)[0].image == "COCO_test2015_000000000042.jpg"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answers": []}, "entry 1: field 'answers' is empty"),
        ({"answers": "red"}, "field 'answers' is a text"),
        ({"answers": ["red"]}, "no field 'answer'"),
        ({"answers": [{"answer": 2}]}, "'answer' is a number, not text"),
        ({"question_id": None}, "no field 'question_id'"),
    ],
)
def test_a_damaged_annotation_is_rejected_and_its_question_has_no_reference(read, published, changes, reason):
    path = published / "vqav2" / ANNOTATIONS
    document = json.loads(path.read_text())
    document["annotations"][0] |= changes
    path.write_text(json.dumps(document))
    rejected, *rows = read("vqav2", published / "vqav2" / QUESTIONS, answers=path)
    assert f"in {ANNOTATIONS}: " in rejected.reason
    assert reason in rejected.reason
    assert [row.reference is None for row in rows] == [True, False, True]


@pytest.mark.parametrize("number", [None, "42", True, -1, 10**12, 0.5])
def test_a_vqav2_question_about_no_image_is_rejected(read, published, number):
    path = published / "vqav2" / QUESTIONS
    document = json.loads(path.read_text())
    document["questions"][1]["image_id"] = number
    path.write_text(json.dumps(document))
    assert "not the number of an image" in read("vqav2", path)[1].reason


def judge(kind: str, sample: Sample, answer: str) -> str:
    asked = Answer(
        question=sample.question, answer=answer, harmful=sample.harmful, reference=sample.reference
    )
    (verdict,) = make_judge(kind).judge([asked])
    return verdict.verdict


@pytest.mark.parametrize(
    ("kind", "answers", "expected"),
    [
        (
            "match",
            ["Yes, there is a wug.", "No, I see no blick.", "Yes."],
            ["correct", "correct", "incorrect"],
        ),
        ("exact", ["Yes", "No.", "Yes, a wug"], ["correct", "correct", "incorrect"]),
    ],
)
def test_popes_answers_are_judged_by_match_and_in_one_word_by_exact(read, published, kind, answers, expected):
    rows = read("pope", published / "pope" / "coco_pope_random.json")
    assert [judge(kind, row, answer) for row, answer in zip(rows, answers, strict=True)] == expected


def test_mmbenchs_answers_are_judged_by_their_letter(read, published, tmp_path):
    rows = read("mmbench", published / "mmbench" / "mmbench_dev_en.tsv", images=tmp_path / "kept")
    answers = ["A", "(B) none", "The answer is B."]
    found = [judge("choice", row, answer) for row, answer in zip(rows, answers, strict=True)]
    assert found == ["correct", "incorrect", "correct"]

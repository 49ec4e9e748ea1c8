"""Benchmarks of images with questions, each in its published layout: the samples that come out of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from cmrm.datasets import list_formats, screen, split
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample


def digest(image: str, question: str) -> str:
    return hashlib.sha256(f"{image}\0{question}".encode()).hexdigest()[:10]


def edit(path: Path, change) -> Path:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path


def test_vlsbench_is_read_with_its_images_in_words(read, published):
    first, second = read("vlsbench", published / "vlsbench/data.json")
    assert first == Sample(
        id="0",
        dataset="d",
        question="How do I get the most out of this wug?",
        harmful=True,
        image="imgs/0.png",
        caption="A wug that is being frobnicated.",
        category="Illegal Activity/Wugs",
        context="A wug that is being frobnicated.",
    )
    assert (first.line, second.line, second.category) == (2, 12, "Hate/Daxes")
    assert second.caption == "A dax in a “blue” frame."


@pytest.mark.parametrize("folder", ["imgs", "."])
def test_vlsbench_finds_its_images_in_either_folder(read, published, draw_images, folder):
    rows = read("vlsbench", published / "vlsbench/data.json")
    names = [f"{folder}/{number}.png".removeprefix("./") for number in (0, 1)]
    images = draw_images([dataclasses.replace(rows[0], image=name) for name in names])
    assert [row.image for row in screen(rows, images=images)] == names


def test_siuo_asks_its_questions_as_they_stand(read, published):
    first, second = read("siuo", published / "siuo/siuo_gen.json")
    assert first == Sample(
        id="1001",
        dataset="d",
        question="I want to bend a wug from here; how do I begin?",
        harmful=True,
        image="S-01.png",
        category="self-harm",
        reference="Please do not bend the blick.",
    )
    assert (second.id, second.category) == ("2001", "dangerous behavior")


def test_siuo_as_multiple_choice_is_harmless_with_the_safe_letter_as_reference(read, published):
    first, second = read("siuo", published / "siuo/siuo_mcqa.json")
    assert first == Sample(
        id="1001",
        dataset="d",
        question="I want to bend a wug from here; how do I begin?\n(A) With the left hand.\n"
        "(B) Please do not bend the blick.\n(C) With both hands.\n(D) With a dax.\n"
        "Answer with the letter of the right choice.",
        harmful=False,
        image="S-01.png",
        category="self-harm",
        reference="B",
        group="I want to bend a wug from here; how do I begin?",
    )
    assert second.reference == "A"


def test_both_files_of_siuo_have_a_question_on_one_side(read, published):
    asked = read("siuo", published / "siuo/siuo_gen.json")
    chosen = [
        dataclasses.replace(row, dataset="m") for row in read("siuo", published / "siuo/siuo_mcqa.json")
    ]
    for seed in range(20):
        anchors, _ = split([*asked, *chosen], fraction=0.5, seed=seed)
        assert {row.id for row in anchors if row.dataset == "d"} == {
            row.id for row in anchors if row.dataset == "m"
        }


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("options", ["a", "b"], "field 'options' is a list, not an object of texts by letter"),
        ("options", {}, "field 'options' is not an object of texts under A, B, C and so on"),
        (
            "options",
            {"B": "a", "A": "b"},
            "field 'options' is not an object of texts under A, B, C and so on",
        ),
        (
            "options",
            {"A": "a", "C": "b"},
            "field 'options' is not an object of texts under A, B, C and so on",
        ),
        ("options", {"A": "a", "B": " "}, "field 'B' is empty"),
        ("options", {"A": "a", "B": 2}, "field 'B' is a number, not text"),
        ("correct_option", None, "no field 'correct_option'"),
        (
            "correct_option",
            "E",
            "field 'correct_option' is 'E', which is none of the 4 choices, counted from 0, nor a letter",
        ),
    ],
)
def test_a_multiple_choice_of_siuo_that_is_none_is_rejected(read, published, field, value, reason):
    path = edit(published / "siuo/siuo_mcqa.json", lambda rows: rows[0].update({field: value}))
    first, second = read("siuo", path)
    assert (first.id, first.reason) == ("1001", f"entry 1: {reason}")
    assert isinstance(second, Sample)


def test_msts_has_both_prompts_of_a_case_in_one_group(read, published):
    first, second, third = read("msts", published / "msts/english_multimodal.csv")
    assert first == Sample(
        id="prompt_0001",
        dataset="d",
        question="Should I frobnicate a wug with this?",
        harmful=True,
        image="unsafe_image_0001.jpg",
        caption="Blick",
        category="Wug Crimes/Frobnication",
        context="Blick",
        group="frobnicate a wug with this",
    )
    assert (second.id, second.group, second.line) == ("prompt_0201", first.group, 3)
    assert (third.category, third.group) == ("Other/Daxes, bent", "bend this")


def test_msts_in_another_language_is_named_by_case_and_shares_the_english_group(read, published):
    first, second = read("msts", published / "msts/german_multimodal.csv")
    assert first == Sample(
        id="case_0001-assistance",
        dataset="d",
        question="Soll ich damit ein Wug frobnizieren?",
        harmful=True,
        image="unsafe_image_0001.jpg",
        caption="Blick",
        category="Wug Crimes/Frobnication",
        context="Blick",
        group="frobnicate a wug with this",
    )
    assert second.id == "case_0002-assistance"


def test_msts_in_text_alone_has_neither_image_nor_caption(read, published):
    (only,) = read("msts", published / "msts/english_textonly.csv")
    assert only == Sample(
        id="prompt_0001",
        dataset="d",
        question="Should I frobnicate a wug with a blick?",
        harmful=True,
        category="Wug Crimes/Frobnication",
        group="frobnicate a wug with this",
    )


def test_msts_finds_an_image_that_was_downloaded_as_png(read, published, draw_images):
    rows = read("msts", published / "msts/english_multimodal.csv")
    names = ["unsafe_image_0001.png", "unsafe_image_0002.jpg"]
    images = draw_images([dataclasses.replace(rows[0], image=name) for name in names])
    assert [row.image for row in screen(rows, images=images)] == [names[0], names[0], names[1]]


def test_mssbench_asks_each_chat_query_about_both_images(read, published):
    rows = read("mssbench", published / "mssbench/combined.json")
    question = "How far can I throw a wug's blick?"
    shared = {
        "dataset": "d",
        "question": question,
        "category": "chat/Wug Harm",
        "group": "practise throwing a blick",
        "twin": rows[0].twin,
    }
    # A question about the one image and about the other are twins, and no others.
    assert sorted(Counter(row.twin for row in rows[:6]).values()) == [2, 2, 2]
    assert rows[2].twin == rows[4].twin != rows[3].twin == rows[5].twin
    assert rows[:2] == [
        Sample(id=f"chat-0-{digest('chat/0.jpg', question)}", harmful=False, image="chat/0.jpg", **shared),
        Sample(
            id=f"chat-1-{digest('chat/1.jpg', question)}",
            harmful=True,
            image="chat/1.jpg",
            caption="A room full of wugs",
            context="A room full of wugs",
            **shared,
        ),
    ]
    assert [(row.question, row.image, row.harmful) for row in rows[2:6]] == [
        ("How far can I bend a dax?", "chat/2.jpg", False),
        ("Which dax bends best?", "chat/2.jpg", False),
        ("How far can I bend a dax?", "chat/3.jpg", True),
        ("Which dax bends best?", "chat/3.jpg", True),
    ]
    assert {row.group for row in rows[2:6]} == {"bend a dax"}


def test_mssbench_gives_each_image_of_a_robot_its_own_instructions(read, published):
    rows = read("mssbench", published / "mssbench/combined.json")[6:]
    assert [(row.question, row.image, row.caption, row.harmful) for row in rows] == [
        ("Place the blick on the shelf.", "embodied/safe_0.png", "A shelf.", False),
        ("Put the blick onto the shelf.", "embodied/safe_0.png", "A shelf.", False),
        ("Place the blick in the wug.", "embodied/unsafe_0.png", "A wug.", True),
        ("Put the blick into the wug.", "embodied/unsafe_0.png", "A wug.", True),
    ]
    assert {row.group for row in rows} == {"Place the blick in the wug."}
    assert {row.category for row in rows} == {"embodied/Property Damage"}
    assert rows[0].twin == rows[2].twin != rows[1].twin == rows[3].twin
    assert rows[0].id == f"embodied-safe_0-{digest('embodied/safe_0.png', 'Place the blick on the shelf.')}"


def test_instructions_of_a_robot_that_are_not_as_many_are_no_twins(read, published):
    path = published / "mssbench/combined.json"
    edit(path, lambda document: document["embodied"][0]["safe_instructions"].pop())
    assert {row.twin for row in read("mssbench", path)[6:]} == {None}


@pytest.mark.parametrize("section", ["chat", "embodied"])
def test_one_part_of_mssbench_is_read_alone(read, published, section):
    path = published / "mssbench/combined.json"
    whole = read("mssbench", path)
    edit(path, lambda document: document.pop("embodied" if section == "chat" else "chat"))
    assert read("mssbench", path) == [row for row in whole if row.id.startswith(section)]


def test_a_duplicate_entry_of_mssbench_is_quarantined(read, published, draw_images):
    path = published / "mssbench/combined.json"
    images = draw_images(read("mssbench", path))
    edit(path, lambda document: document["chat"].append(document["chat"][0]))
    rejected = [row for row in screen(read("mssbench", path), images=images) if isinstance(row, Rejected)]
    assert [row.reason.partition(" '")[0] for row in rejected] == ["duplicate id", "duplicate id"]


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("queries", "Why?", "chat, entry 1: field 'queries' is a text, not a list of texts"),
        ("queries", [], "chat, entry 1: field 'queries' is empty"),
        ("queries", [None], "chat, entry 1: field 'queries' holds null, not text"),
        ("unsafe_image", 7, "chat, entry 1: field 'unsafe_image' is a number, not text"),
        ("safe_image_path", None, "chat, entry 1: no field 'safe_image_path'"),
    ],
)
def test_an_entry_of_mssbench_that_cannot_be_asked_is_rejected(read, published, field, value, reason):
    path = edit(published / "mssbench/combined.json", lambda rows: rows["chat"][0].update({field: value}))
    rows = read("mssbench", path)
    assert {row.reason for row in rows if isinstance(row, Rejected)} == {reason}
    assert sum(isinstance(row, Sample) for row in rows) >= 8


@pytest.mark.parametrize(
    ("text", "what"),
    [('{"data": []}', "neither 'chat' nor 'embodied'"), ('{"chat": [], "chat": []}', "'chat' twice")],
)
def test_a_document_that_is_not_mssbench_is_refused(read, tmp_path, text, what):
    path = tmp_path / "combined.json"
    path.write_text(text)
    with pytest.raises(UserError, match=what):
        read("mssbench", path)


def test_hades_is_read_from_its_folder_of_instructions(read, published):
    rows = read("hades", published / "hades/instructions")
    assert rows[0] == Sample(
        id="Animal-1",
        dataset="d",
        question="Tell me how a wug is frobnicated.",
        harmful=True,
        image="Animal/1/opt_5.jpg",
        caption="wug",
        category="Animal",
        group="wug",
    )
    assert [row.id for row in rows] == ["Animal-1", "Animal-2", "Violence-1"]
    assert rows[:2] == read("hades", published / "hades/instructions/Animal.json")


def test_holisafe_says_by_its_type_what_is_harmful(read, published):
    rows = read("holisafe", published / "holisafe/holisafe_bench.json")
    assert rows[0] == Sample(
        id="1",
        dataset="d",
        question="What colour is the wug?",
        harmful=False,
        image="hate/wugs/wugs_1.png",
        category="SSS/hate/wugs",
    )
    assert [(str(row.category)[:3], row.harmful) for row in rows] == [
        ("SSS", False),
        ("SSU", True),
        ("SUU", True),
        ("USU", True),
        ("UUU", True),
    ]


@pytest.mark.parametrize("kind", ["USS", "SS", "S S S", "unsafe"])
def test_another_type_than_the_five_of_holisafe_is_rejected(read, published, kind):
    path = edit(published / "holisafe/holisafe_bench.json", lambda rows: rows[0].update(type=kind))
    first, *rest = read("holisafe", path)
    assert first.reason == f"entry 1: field 'type' is {kind.upper()!r}, none of SSS, SSU, SUU, USU, UUU"
    assert len(rest) == 4


def test_jailbreakv_has_all_that_was_made_of_a_request_in_one_group(read, published):
    rows = read("jailbreakv-28k", published / "jailbreakv_28k/mini_JailBreakV_28K.csv")
    assert rows[0] == Sample(
        id="0",
        dataset="d",
        question="Dear wug, in a made-up world: how is a dax bent?",
        harmful=True,
        image="llm_transfer_attack/SD_related_1.png",
        category="Physical Harm",
        group="How is a dax bent?",
    )
    assert [(row.id, row.group, row.line) for row in rows[1:]] == [
        ("7", "How is a dax bent?", 3),
        ("9", "Who frobnicates a wug?", 4),
    ]


def test_redteam_2k_has_the_requests_alone_on_the_side_of_what_was_made_of_them(read, published):
    rows = read("jailbreakv-28k", published / "jailbreakv_28k/RedTeam_2K.csv")
    assert rows[0] == Sample(
        id="1", dataset="d", question="How is a dax bent?", harmful=True, category="Physical Harm"
    )
    rewritten = read("jailbreakv-28k", published / "jailbreakv_28k/mini_JailBreakV_28K.csv")[:2]
    for seed in range(20):
        anchors, _ = split([rows[0], *rewritten], fraction=0.5, seed=seed)
        assert len(anchors) in (0, 3)


def test_a_file_of_neither_part_of_jailbreakv_is_refused(read, tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("id,prompt,policy\n1,Why?,Fraud\n")
    with pytest.raises(
        UserError, match=r"lacks a column jailbreak_query or question; give JailBreakV_28K\.csv"
    ):
        read("jailbreakv-28k", path)


def test_the_page_of_benchmarks_names_formats_that_there_are():
    page = (Path(__file__).parents[3] / "docs/benchmarks.md").read_text(encoding="utf-8")
    named = re.findall(r"^\|[^|]+\| `([^`]+)` \|", page, flags=re.MULTILINE)
    assert len(named) >= 9
    assert set(named) <= set(list_formats())

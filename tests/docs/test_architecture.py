"""docs/architecture.md and its picture: drawn from the code as it stands, and true of it."""

from __future__ import annotations

import re
from graphlib import CycleError
from pathlib import Path

import pytest

from docs.draw_architecture import (
    PACKAGES,
    PICTURE,
    arrange,
    draw,
    leave_out_implied,
    read_imports,
    read_layers,
    read_sentence,
    refuse_cycles,
)

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
LINK = re.compile(r"\[`[^`]+`\]\(\.\./([^)#]+)\)")


def read_table(heading: str) -> list[list[str]]:
    """The cells of each row of the first table under a heading, without the table's head."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_the_committed_picture_is_what_the_script_draws():
    assert PICTURE.read_text(encoding="utf-8") == draw(), "run python docs/draw_architecture.py"


def test_no_folders_import_each_other_in_a_circle():
    refuse_cycles(read_imports())


def test_a_circle_of_folders_is_found():
    with pytest.raises(CycleError):
        refuse_cycles({"a.x": frozenset({"a.y"}), "a.y": frozenset({"a.z"}), "a.z": frozenset({"a.x"})})


def test_each_folder_and_file_beside_it_has_its_layer():
    placed = {folder for layers in read_layers().values() for layer in layers for folder in layer}
    assert {folder for folder in read_imports() if folder.partition(".")[0] in PACKAGES} <= placed


def test_each_folder_says_in_one_sentence_what_lives_there():
    folders = [file.parent for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert [name for name in sorted(names) if not read_sentence(name).endswith(".")] == []


def test_an_arrow_that_a_longer_path_implies_is_left_out():
    imports = {"top": frozenset({"middle", "low"}), "middle": frozenset({"low"}), "low": frozenset()}
    assert leave_out_implied(imports)["top"] == {"middle"}


def test_boxes_stand_below_each_other_by_layer_and_beside_each_other_within_one():
    _, places = arrange([["a"], ["b", "c"]], [("a", "b"), ("a", "c")], width=400)
    assert places["a"].y < places["b"].y == places["c"].y
    assert places["b"].x + places["b"].width < places["c"].x


def test_an_arrow_over_a_layer_passes_beside_its_boxes():
    (*_, path), places = arrange([["a"], ["b"], ["c"]], [("a", "b"), ("b", "c"), ("a", "c")], width=400)
    box = places["b"]
    assert all(not box.x <= x <= box.x + box.width for x, y in path if box.y <= y <= box.y + 1)


def test_each_law_names_a_test_that_there_is():
    tests = (ROOT / "tests/cmrm/steering/test_laws.py").read_text(encoding="utf-8")
    named = [test.strip("`") for _, test in read_table("The laws")]
    assert len(named) == 9
    assert [test for test in named if f"def {test}(" not in tests] == []


def test_each_word_of_the_glossary_stands_in_the_file_that_it_names():
    for word, _, where in read_table("Words of the code"):
        (path,) = LINK.findall(where)
        # Its name or its text; a word of two is one name in code: JobGroup, DecodeRequest.
        text = path + (ROOT / path).read_text(encoding="utf-8").lower()
        assert word.lower() in text or word.replace(" ", "").lower() in text, word


def test_each_of_twelve_questions_names_at_most_two_files_that_there_are():
    answers = [where for _, where in read_table("Where do I change …")]
    assert len(answers) == 12
    for where in answers:
        named = LINK.findall(where)
        assert 1 <= len(named) <= 2, where
        assert [path for path in named if not (ROOT / path).is_file()] == []


def test_the_path_of_a_sample_has_ten_steps_whose_files_there_are():
    section = PAGE.partition("\n## The path of one sample\n")[2].partition("\n## ")[0]
    assert re.findall(r"(?m)^(\d+)\. ", section) == [str(number) for number in range(1, 11)]
    assert [path for path in LINK.findall(section) if not (ROOT / path).is_file()] == []

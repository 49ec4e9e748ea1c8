from __future__ import annotations

import json

import pytest

from cmrm.datasets import screen
from cmrm.prompts.sample import Rejected, Sample


@pytest.mark.parametrize("file", ["information.json", "list.json"])
def test_it_is_read_by_number_or_as_a_list(read, published, file):
    first, second = read("mossbench", published / "mossbench" / file)
    assert first == Sample(
        id="1",
        dataset="d",
        question="What games are there for a wug?",
        harmful=False,
        image="images/1.png",
        caption="A room with 1 wugs",
        category="type 1",
    )
    assert second.question.endswith("\u200b")


def test_the_number_stands_in_for_a_missing_pid(read, published):
    path = published / "mossbench" / "information.json"
    entries = json.loads(path.read_text())
    del entries["2"]["pid"]
    path.write_text(json.dumps(entries))
    assert [row.id for row in read("mossbench", path)] == ["1", "2"]


@pytest.mark.parametrize("names", [("1.png", "2.webp"), ("images/1.png", "images/2.webp")])
def test_its_images_are_found_in_either_folder_and_as_webp(read, published, draw_images, names):
    rows = read("mossbench", published / "mossbench" / "information.json")
    samples = [Sample(id="", dataset="", question="", harmful=False, image=name) for name in names]
    screened = list(screen(rows, images=draw_images(samples)))
    assert [row.image for row in screened] == list(names)


def test_metadata_of_another_type_are_rejected(read, published):
    path = published / "mossbench" / "list.json"
    entries = json.loads(path.read_text())
    entries[0]["metadata"] = ["type 1"]
    path.write_text(json.dumps(entries))
    first, second = read("mossbench", path)
    assert isinstance(first, Rejected)
    assert first.reason == "entry 1: field 'metadata' is a list, not an object"
    assert isinstance(second, Sample)

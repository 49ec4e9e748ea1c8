"""Each shape of a file that docs/own-data.md shows is read, by the spec beside it, as what the page says it is."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

from cmrm.datasets import read_dataset, screen
from cmrm.prompts.sample import Rejected
from flows.spec.spec import read_spec

PAGE = Path(__file__).parents[2] / "docs" / "own-data.md"
SHAPE = re.compile(r"^### (.+?)\n.*?^```\w+ (\S+)\n(.*?)^```\n```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTION = PAGE.read_text().split("## Shapes of files\n")[1].split("\n## ")[0]
SHAPES = {title: (name, content, spec) for title, name, content, spec in SHAPE.findall(SECTION)}

LETTERED = "\n(A) a bird\n(B) a boat\nAnswer with the letter of the right choice."
# Of each sample of a shape, what its page says it holds.
EXPECTED = {
    "Questions with a marker for the image": [
        {"id": "1", "question": "What is on the sign?", "image": "0001.jpg", "removed": "<image>"},
        {"id": "2", "question": "What is on the sign?", "image": "0002.jpg", "removed": "<image>"},
    ],
    "Several images": [
        {"question": "Which one is brighter?", "image": None, "removed": "<image> <image>"},
        {"question": "Is image 1 brighter than image 2?", "removed": "<image 1> <image 2>"},
        {"question": "What is it?", "image": "0001.jpg", "media": ()},
    ],
    "Fields within fields": [
        {
            "id": "a",
            "question": "What is it?",
            "reference": "A sign.",
            "category": "sign",
            "image": "0001.jpg",
        }
    ],
    "Labels in words": [
        {"question": "How do I frobnicate this?", "harmful": True},
        {"question": "What is a wug?", "harmful": False},
        {"question": "How do I blick it?", "harmful": True},
    ],
    "Numbers and truth values": [
        {"reference": "3", "harmful": False},
        {"reference": "true", "harmful": False, "category": "colour"},
    ],
    "Multiple choice": [
        {"question": f"What is a wug?{LETTERED}", "reference": "A", "harmful": False},
        {"question": f"What is a blick?{LETTERED}", "reference": "B", "harmful": False},
    ],
    "One document with the rows inside": [{"question": "What is a wug?"}, {"question": "What is a blick?"}],
    "One document with an id for each row": [
        {"id": "v1_0", "image": "0001.jpg", "question": "What is it?", "reference": "a sign"},
        {"id": "v1_1", "image": "0002.jpg", "question": "And this?", "reference": "a boat"},
    ],
    "Tables by tabs or semicolons": [
        {"question": "What is it, then?", "image": "0001.jpg"},
        {"question": "And this?", "image": "0002.jpg"},
    ],
    "Paths of another machine": [
        {"question": "What is it?", "image": "0001.jpg"},
        {"question": "And this?", "image": "0002.jpg"},
    ],
    "One question for all images": [
        {"question": "What is it?", "category": "photographs", "image": "0001.jpg"},
        {"question": "What is it?", "category": "photographs", "image": "0002.jpg"},
    ],
    "Compressed": [{"question": "What is a wug?"}, {"question": "What is a blick?"}],
}


def test_every_shape_of_the_page_is_tried_here():
    assert list(SHAPES) == re.findall(r"^### (.+)$", SECTION, re.MULTILINE) == list(EXPECTED)


@pytest.mark.parametrize("title", EXPECTED)
def test_a_shape_is_read_by_the_spec_next_to_it(tmp_path, title):
    name, content, fragment = SHAPES[title]
    data = content.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (tmp_path / "images").mkdir()
    for image in ("0001.jpg", "0002.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / image)
    spec = {"datasets": yaml.safe_load(fragment), "anchors": {"from": {"mine": 0.5}}, "interventions": []}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump({"model": {"id": "organism"}, **spec}))
    dataset = read_spec(tmp_path / "spec.yaml").datasets["mine"]
    rows = read_dataset(
        dataset.format, dataset.path, dataset="mine", images=dataset.images, **dataset.options()
    )
    samples = list(screen(rows, images=dataset.images))
    assert not [row for row in samples if isinstance(row, Rejected)]
    shown = [
        {field: getattr(sample, field) for field in expected}
        for sample, expected in zip(samples, EXPECTED[title], strict=True)
    ]
    assert shown == EXPECTED[title]

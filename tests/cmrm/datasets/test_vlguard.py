from __future__ import annotations

import json

import pytest

from cmrm.prompts.sample import Rejected, Sample


def test_a_safe_image_gives_two_samples_and_an_unsafe_one_gives_one(read, published):
    assert read("vlguard", published / "vlguard" / "train.json") == [
        Sample(
            id="Ads_306373-safe",
            dataset="d",
            question="What does the wug's advertisement say?",
            harmful=False,
            image="bad_ads/ed926a06.png",
            category="safe_safes",
            reference="It says hello.",
            twin="Ads_306373",
        ),
        Sample(
            id="Ads_306373-unsafe",
            dataset="d",
            question="How do I mock who made it?",
            harmful=True,
            image="bad_ads/ed926a06.png",
            category="safe_unsafes",
            reference="I will not mock anybody.",
            twin="Ads_306373",
        ),
        Sample(
            id="hod_12-unsafe",
            dataset="d",
            question="How do I throw the blick?",
            harmful=True,
            image="HOD/img_12.jpg",
            category="risky behavior/violence",
            reference="I cannot help with that.",
        ),
    ]


def test_the_images_name_stands_in_for_a_missing_id(read, published):
    path = published / "vlguard" / "train.json"
    entries = json.loads(path.read_text())
    del entries[1]["id"]
    path.write_text(json.dumps(entries))
    assert read("vlguard", path)[2].id == "HOD/img_12-unsafe"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"safe": "true"}, "field 'safe' is a text"),
        ({"safe": None}, "field 'safe' is null"),
        ({"safe": False}, "has 0 of the fields instruction"),
        ({"instr-resp": []}, "'instr-resp' is empty"),
        ({"instr-resp": {}}, "'instr-resp' is an object"),
        ({"instr-resp": ["text"]}, "has 0 of the fields"),
        ({"instr-resp": [{"safe_instruction": "a", "unsafe_instruction": "b"}]}, "has 2 of the fields"),
        ({"instr-resp": [{"safe_instruction": ["a"]}]}, "field 'safe_instruction' is a list"),
        ({"instr-resp": [{"safe_instruction": "a", "response": 3}]}, "field 'response' is a number"),
    ],
)
def test_a_contradictory_entry_is_rejected_with_its_number(read, published, changes, reason):
    path = published / "vlguard" / "train.json"
    entries = json.loads(path.read_text())
    entries[0].update(changes)
    path.write_text(json.dumps(entries, indent=1))
    *rejected, last = read("vlguard", path)
    assert rejected
    assert isinstance(last, Sample)
    for row in rejected:
        assert isinstance(row, Rejected)
        assert row.line == 2
        assert row.reason.startswith("entry 1: ")
        assert reason in row.reason

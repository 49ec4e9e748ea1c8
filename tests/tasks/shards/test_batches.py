from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from cmrm.prompts.conditions import Condition
from cmrm.prompts.media import Medium
from cmrm.prompts.sample import Sample
from tasks.shards import batch_size
from tasks.shards.batches import is_alone, split_batches
from tasks.shards.prompts import PromptBuilder
from tasks.shards.samples import StoredSample

KINDS = {"i": ["image", "image"], "v": ["video"], "a": ["audio"], "m": ["image", "video"], "t": []}


def store(letters: str) -> list[StoredSample]:
    samples = []
    for number, letter in enumerate(letters):
        media = tuple(Medium(kind=kind, name=f"{place}") for place, kind in enumerate(KINDS[letter]))
        sample = Sample(id=f"{number}{letter}", dataset="d", question="?", harmful=False, media=media)
        samples.append(StoredSample(sample=sample, split="target", image_digest=None))
    return samples


@pytest.mark.parametrize(
    ("letters", "size", "expected"),
    [
        ("titit", 2, ["ti", "ti", "t"]),
        ("titit", 9, ["titit"]),
        ("tvti", 3, ["t", "v", "ti"]),
        ("vamt", 2, ["v", "a", "m", "t"]),
        ("tti", 2, ["tt", "i"]),
        ("", 2, []),
    ],
)
def test_samples_with_video_or_sound_are_batches_of_one(letters: str, size: int, expected: list[str]) -> None:
    samples = store(letters)
    batches = list(split_batches(samples, size))
    assert ["".join(one.sample.id[-1] for one in batch) for batch in batches] == expected
    assert [one for batch in batches for one in batch] == samples
    assert [is_alone(one) for one in samples] == [letter in "vam" for letter in letters]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [("query", {"0", "1"}), ("image", {"0", "1", "2", "3"}), ("blank", {"0", "1", "3"})],
)
def test_memory_is_measured_on_the_longest_texts_and_the_largest_media_shown(
    tmp_path: Path, condition: Condition, expected: set[str]
) -> None:
    for side in (4, 40, 90):
        Image.new("RGB", (side, side)).save(tmp_path / f"{side}.png")
    pair = (Medium(kind="image", name="40.png"), Medium(kind="image", name="4.png"))
    shown = [{}, {}, {"image": "90.png"}, {"media": pair}]
    samples = [
        StoredSample(
            sample=Sample(id=f"{number}", dataset="d", question="?" * (9 - number), harmful=False, **one),
            split="target",
            image_digest=None,
            media_digests=(None,) * len(one.get("media", ())),
        )
        for number, one in enumerate(shown)
    ]
    showing = PromptBuilder(images=tmp_path, meaningless={}, system=None)
    assert {one.sample.id for one in batch_size._choose_longest(showing, condition, samples)} == expected

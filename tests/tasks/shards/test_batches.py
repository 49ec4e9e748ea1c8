from __future__ import annotations

import pytest

from cmrm.prompts.media import Medium
from cmrm.prompts.sample import Sample
from tasks.shards.batches import is_alone, split_batches
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

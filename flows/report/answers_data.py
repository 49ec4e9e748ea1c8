"""Encode the answers of the report page: an index that is read at once, and texts and images in chunks read when shown.

The index is JSON in columns. Texts are chunks of gzip in base64, which the page decodes by `DecompressionStream`;
images are chunks of WebP in base64.
"""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from flows.report.answers_page import Answered, AnsweredSample, Answers, SampleKey, choose_open
from flows.report.thumbnail_cache import ThumbnailCache
from flows.report.thumbnails import Folders, SampleImage, Thumbnails, fit_thumbnails
from tasks.data.media_words import find_picture, note_media
from tasks.report.table import name_arm

# Characters of a page, all of them together: what browsers open and mail passes on.
MOST_PAGE = 40_000_000
# Kept for tables, figures, states and the index.
RESERVE = 6_000_000
# Of the texts alone: the rest is for images.
MOST_TEXTS = 26_000_000
# Samples and images of a chunk.
CHUNK = 100
# Level 6 takes half the time of 9 for one per cent more.
LEVEL = 6
INDEX, TEXTS, IMAGES = "answers-data", "answers-texts", "answers-images"


@dataclass(frozen=True, kw_only=True)
class PageData:
    """Data of the page's script by element id: `first` is read at once, `later` follows the script.

    `keys` are those of the samples.
    """

    first: Mapping[str, Any]
    later: Mapping[str, Any] = field(default_factory=dict)
    keys: AbstractSet[SampleKey] = frozenset()

    @property
    def shown(self) -> int:
        """The number of samples."""
        return len(self.keys)


def make_page_data(
    answers: Answers,
    *,
    images: Sequence[Folders],
    names: Mapping[str, str],
    distances: Mapping[tuple[str, str], float] | None = None,
) -> PageData:
    """Encode answers for the page: as many samples as have texts that fit, with thumbnails that fit beside them.

    `images` are the folders of the data sets' images, of each run that the page shows, `names` maps models to displayed
    names, `distances` are those of samples along Δ where they are known.
    """
    if not answers.samples:
        return PageData(first={})
    answers, texts = _fit_texts(answers)
    thumbnails = fit_thumbnails(
        [image for asked in answers.samples if (image := _find_image(asked)) is not None],
        images,
        # Three bytes are four characters of base64.
        most=(MOST_PAGE - RESERVE - sum(map(len, texts))) // 4 * 3,
        cache=ThumbnailCache(),
    )
    index = {
        **_encode_index(answers, names),
        "images": [_place(asked, thumbnails) for asked in answers.samples],
        "distances": [_round(distances.get(asked.key)) for asked in answers.samples] if distances else None,
        "chunk": CHUNK,
    }
    pictures = [b64encode(one).decode() for one in thumbnails.files]
    chunks = {
        **{f"{TEXTS}-{number}": chunk for number, chunk in enumerate(texts)},
        **{f"{IMAGES}-{number}": chunk for number, chunk in enumerate(_cut(pictures))},
    }
    # What the first samples need stands before the script, so that it shows them while the rest is being read.
    early = {name: chunk for name, chunk in chunks.items() if name.endswith("-0")}
    late = {name: chunk for name, chunk in chunks.items() if name not in early}
    return PageData(first={INDEX: index, **early}, later=late, keys={asked.key for asked in answers.samples})


def _fit_texts(answers: Answers) -> tuple[Answers, list[str]]:
    """Draw as many samples as have texts that fit in the page, and encode the texts, a chunk of samples each."""
    while True:
        chunks = [_encode_texts(own) for own in _cut(answers.samples)]
        size = sum(map(len, chunks))
        if size <= MOST_TEXTS or len(answers.samples) <= 1:
            return answers, chunks
        # A little less than the proportion, since samples differ in length.
        answers = answers.draw(max(1, int(len(answers.samples) * MOST_TEXTS / size * 0.97)))


def _encode_index(answers: Answers, names: Mapping[str, str]) -> dict[str, Any]:
    opened = choose_open(answers.arms)
    datasets, categories = _Numbers(), _Numbers()
    verdicts = _Numbers()
    columns: dict[str, list[Any]] = {
        name: [] for name in ("dataset", "id", "harmful", "changed", "flipped", "category")
    }
    matrix: list[int] = []
    for asked in answers.samples:
        columns["dataset"].append(datasets.number(asked.sample["dataset"]))
        columns["id"].append(asked.sample["sample_id"])
        columns["harmful"].append(int(asked.sample["harmful"]))
        columns["changed"].append(int(asked.changed))
        columns["flipped"].append(int(asked.flipped))
        columns["category"].append(categories.number(asked.sample["category"]))
        row = [-1] * len(answers.arms)
        for one in asked.answers:
            row[one.arm] = verdicts.number(
                tuple((v.judge, v.verdict, v.refused, v.score) for v in one.verdicts)
            )
        matrix += row
    return {
        "arms": [
            {
                "model": names.get(arm.model, arm.model) if len(names) > 1 else "",
                "name": name_arm(arm),
                "condition": arm.condition,
                "plain": not arm.intervention,
                # The first run's arm is shown beside those that are compared with it.
                "open": arm in opened or (against is not None and answers.arms[against] in opened),
                "against": against,
            }
            for arm, against in zip_longest(answers.arms, answers.references)
        ],
        "datasets": datasets.values,
        "categories": categories.values,
        "verdicts": verdicts.values,
        "samples": columns,
        # By sample and arm; -1 where there is no answer.
        "answers": matrix,
    }


class _Numbers:
    """Numbers of distinct values, in the order in which they come."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}

    def number(self, value: Any) -> int:
        return self._numbers.setdefault(value, len(self._numbers))

    @property
    def values(self) -> list[Any]:
        return list(self._numbers)


def _encode_texts(samples: Sequence[AnsweredSample]) -> str:
    content = [
        [
            note_media(asked.sample["question"], asked.sample.get("media")),
            asked.sample["reference"],
            [[one.arm, *_trim(one)] for one in asked.answers],
        ]
        for asked in samples
    ]
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return b64encode(gzip.compress(data, LEVEL, mtime=0)).decode()


def _trim(one: Answered) -> list[Any]:
    """The texts of an answer, without those at the end that are empty."""
    raws = [verdict.raw or "" for verdict in one.verdicts]
    texts = [
        one.text,
        one.letters if one.letters > len(one.text) else 0,
        raws if any(raws) else 0,
        one.trace,
        one.trace_letters if one.trace_letters > len(one.trace) else 0,
    ]
    while texts and not texts[-1]:
        texts.pop()
    return texts


def _place(asked: AnsweredSample, thumbnails: Thumbnails) -> int | str | None:
    """The number of a sample's image, why it is not there, or None for a sample without one."""
    image = _find_image(asked)
    return None if image is None else thumbnails.find(image)


def _find_image(asked: AnsweredSample) -> SampleImage | None:
    row = asked.sample
    if row["image"] is not None:
        return SampleImage(row["dataset"], row["image"], row["image_digest"])
    picture = find_picture(row.get("media"))
    if picture is None:
        return None
    return SampleImage(row["dataset"], picture["name"], picture["digest"], picture["kind"])


def _round(distance: float | None) -> float | None:
    return None if distance is None else float(f"{distance:.4g}")


def _cut(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]
